#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ptb_word_lm_fuzz::v1(data));

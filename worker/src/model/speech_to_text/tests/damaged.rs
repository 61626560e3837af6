//! Folders whose files hold anything, and audio that does.

use proptest::prelude::*;

use super::super::audio::samples;
use super::{golden, load_cpu, made};
use crate::model::Cancel;
use crate::model::damaged::{any_content, any_setting};

const CONFIGS: [&str; 3] = ["config.json", "generation_config.json", "preprocessor_config.json"];

#[test]
fn any_setting_may_be_anything() {
    any_setting(&made().1, &CONFIGS, load_cpu);
}

#[test]
fn any_file_may_hold_anything() {
    let (_dir, model) = made();
    let files: Vec<&str> = CONFIGS.into_iter().chain(["tokenizer.json", "model.safetensors"]).collect();
    any_content(&model, &files, load_cpu);
}

/// Whatever is done to a file of audio, there are samples or an error.
#[test]
fn audio_may_hold_anything() {
    let kinds = ["tone.flac", "tone.ogg", "tone.mp3", "tone.wav"];
    let files: Vec<Vec<u8>> = kinds.iter().map(|kind| golden::bytes(&format!("speech/{kind}"))).collect();
    let any = (0..files.len(), any::<u16>(), any::<u8>(), any::<u16>(), 1_usize..40);
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |((which, at, byte, cut, changes) in any)| {
        let mut file = files[which].clone();
        for change in 0..changes {
            // most of what matters is at the begin
            let place = (usize::from(at) * (change + 1)) % if change % 2 == 0 { 300 } else { file.len() };
            file[place] = byte.wrapping_add(change as u8);
        }
        file.truncate(file.len() - usize::from(cut) % file.len() / 2);
        if let Ok(samples) = samples(file.into(), &Cancel::default()) {
            prop_assert!(samples.iter().all(|sample| sample.is_finite()));
        }
    });
}

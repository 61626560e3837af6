//! Every part of a model against what diffusers computes with it (bench/parity).

use candle_core::{DType, IndexOp, Tensor};

use super::{TextToImage, load_cpu};
use crate::model::golden;
use crate::model::text_to_image::text::Text;
use crate::model::text_to_image::unet::{Conditioning, TextAndSizes};

/// The largest relative difference of a part in f32.
const CLOSE: f32 = 1e-4;

const PROMPTS: [&str; 2] = ["a photo of an astronaut riding a horse on mars!", "Blurry café 123, don't  (red:1.2)\n🙂"];

const MODELS: [(&str, &[u64]); 5] =
    [("sdxl", &[1, 2, 3]), ("turbo", &[1, 2, 3]), ("sd15", &[1, 2, 4]), ("sd21", &[1, 2, 3]), ("inpaint", &[1])];

/// The largest difference, relative to the largest value.
fn apart(found: &Tensor, known: &Tensor) -> f32 {
    assert_eq!(found.dims(), known.dims());
    let flat = |x: &Tensor| x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (found, known) = (flat(found), flat(known));
    let largest = known.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
    found.iter().zip(&known).fold(0_f32, |apart, (a, b)| apart.max((a - b).abs())) / largest
}

fn each(check: impl Fn(&str, &TextToImage, &std::collections::HashMap<String, Tensor>)) {
    for (name, seeds) in MODELS {
        for seed in seeds {
            let (_dir, model) = golden::model(name, *seed);
            let known = golden::tensors(&format!("{name}/components-{seed}.safetensors"));
            check(&format!("{name}-{seed}"), &load_cpu(&model).unwrap(), &known);
        }
    }
}

#[test]
fn texts_are_read_as_diffusers_reads_them() {
    each(|name, engine, known| {
        let readers = &engine.pipeline.readers;
        for (row, prompt) in PROMPTS.into_iter().enumerate() {
            for (reader, component) in readers.iter().zip(["text_encoder", "text_encoder_2"]) {
                let words = reader.tokenizer.words(prompt).unwrap();
                let tokens: Vec<i64> = reader.tokenizer.frame(&words).into_iter().map(i64::from).collect();
                let wanted: Vec<i64> = known[&format!("{component}.tokens")].i(row).unwrap().to_vec1().unwrap();
                assert_eq!(tokens, wanted, "{name} {component} {prompt}");
            }
            let encoded = Text::read(readers, "prompt", prompt, false).unwrap().encode(readers, 1).unwrap();
            let hidden = |component: &str| known.get(&format!("{component}.hidden")).map(|x| x.i(row..=row).unwrap());
            let states: Vec<Tensor> = ["text_encoder", "text_encoder_2"].into_iter().filter_map(hidden).collect();
            let wanted = Tensor::cat(&states, 2).unwrap();
            let far = apart(&encoded.context, &wanted);
            assert!(far <= CLOSE, "{name} hidden states of {prompt}: {far}");
            let pooled = known.get("text_encoder_2.pooled").map(|x| x.i(row..=row).unwrap());
            assert_eq!(encoded.pooled.is_some(), pooled.is_some());
            if let (Some(found), Some(wanted)) = (encoded.pooled, pooled) {
                let far = apart(&found, &wanted);
                assert!(far <= CLOSE, "{name} pooled {prompt}: {far}");
            }
        }
    });
}

#[test]
fn rows_at_timesteps_of_their_own_come_out_as_in_diffusers() {
    each(|name, engine, known| {
        let states = ["text_encoder.hidden", "text_encoder_2.hidden"].into_iter().filter_map(|part| known.get(part));
        let context = Tensor::cat(&states.collect::<Vec<_>>(), 2).unwrap();
        let rows = known["unet.rows"].to_dtype(DType::U32).unwrap();
        let added = |rows: &Tensor, count: usize| {
            let pooled = known.get("text_encoder_2.pooled")?.index_select(rows, 0).unwrap();
            let sizes = known["unet.sizes"].narrow(0, 0, count).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            Some(TextAndSizes { pooled, sizes })
        };
        let conditioning = Conditioning {
            timesteps: known["unet.timesteps"].to_vec1().unwrap(),
            guidance: vec![1.0; 3],
            context: context.index_select(&rows, 0).unwrap(),
            added: added(&rows, 3),
        };
        let unet = &engine.pipeline.unet;
        let far = apart(&unet.forward(&known["unet.latents"], &conditioning).unwrap(), &known["unet.output"]);
        assert!(far <= CLOSE, "{name}: {far}");

        let first = Tensor::new(&[0_u32], rows.device()).unwrap();
        let conditioning = Conditioning {
            timesteps: vec![500.0],
            guidance: vec![1.0],
            context: context.i(0..1).unwrap(),
            added: added(&first, 1),
        };
        let found = unet.forward(&known["unet.odd_latents"], &conditioning).unwrap();
        let far = apart(&found, &known["unet.odd_output"]);
        assert!(far <= CLOSE, "{name}, sides that do not halve evenly: {far}");
    });
}

#[test]
fn pixels_and_latents_come_out_as_in_diffusers() {
    each(|name, engine, known| {
        let vae = &engine.pipeline.vae;
        let scaled = vae.scaled(&known["vae.latents"]).unwrap();
        let far = apart(&vae.decode(&scaled).unwrap(), &known["vae.decoded"].squeeze(0).unwrap());
        assert!(far <= CLOSE, "{name} decoded: {far}");

        let encoded = vae.encode(&known["vae.picture"]).unwrap();
        let count = encoded.count();
        let mean = encoded.sample(vec![0.0; count]).unwrap();
        let far = apart(&mean, &known["vae.mean"]);
        assert!(far <= CLOSE, "{name} mean: {far}");
        let spread = (encoded.sample(vec![1.0; count]).unwrap() - mean).unwrap();
        let wanted = (&known["vae.logvar"] / 2.0).unwrap().exp().unwrap();
        let far = apart(&spread, &wanted);
        assert!(far <= CLOSE, "{name} spread: {far}");
    });
}

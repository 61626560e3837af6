//! The same pictures as diffusers. The pixels below are those of diffusers 0.42.1 and transformers 5.23.0 (torch 2.15.0,
//! CPU, f32) for the made model, given the latents and step noise of this worker's own generator.

use serde_json::{Value, json};

use super::{decode, edit, item, load_cpu, made};
use crate::model::Engine;

/// What was asked; scheduler, spacing and prediction type; the pixels at the top left, in the middle, at the bottom right
/// and at line 5, 9 columns from the right.
type Case = (Value, [&'static str; 3], [[u8; 3]; 4]);

#[test]
fn pictures_are_those_of_diffusers() {
    let (euler, ancestral) = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler");
    let cases: [Case; 6] = [
        (
            json!({
                "prompt": "a photo of an astronaut riding a horse on mars!", "negative_prompt": "Blurry café 123 don't",
                "steps": 2, "seed": 0,
            }),
            [euler, "leading", "epsilon"],
            [[139, 109, 134], [68, 131, 145], [116, 128, 124], [153, 65, 78]],
        ),
        (
            json!({"prompt": "A  cat\n it's 42 ✨", "steps": 4, "seed": 1, "width": 72, "height": 104}),
            [euler, "leading", "epsilon"],
            [[114, 125, 132], [102, 58, 67], [122, 135, 120], [78, 161, 68]],
        ),
        (
            json!({"prompt": "a cat", "steps": 4, "seed": 2, "guidance_scale": 0}),
            [ancestral, "trailing", "epsilon"],
            [[152, 120, 109], [184, 28, 223], [123, 163, 136], [148, 80, 77]],
        ),
        (
            json!({"prompt": "a cat", "steps": 5, "seed": 3, "guidance_scale": 7.5, "width": 128, "height": 128}),
            [ancestral, "linspace", "v_prediction"],
            [[119, 113, 130], [147, 147, 58], [123, 138, 127], [96, 112, 133]],
        ),
        (
            json!({"prompt": "a cat", "negative_prompt": "", "steps": 7, "seed": 4, "guidance_scale": 7.5}),
            [euler, "trailing", "v_prediction"],
            [[97, 130, 120], [239, 144, 173], [110, 119, 129], [99, 110, 102]],
        ),
        (
            json!({"prompt": "hey!! a <|endoftext|> cat, mars!", "steps": 3, "seed": 5, "guidance_scale": 3}),
            [euler, "linspace", "epsilon"],
            [[132, 119, 124], [189, 119, 51], [115, 132, 128], [103, 116, 180]],
        ),
    ];
    let (_dir, model) = made();
    for (input, [class, spacing, prediction], known) in cases {
        edit(&model, "scheduler/scheduler_config.json", |config| {
            config["_class_name"] = json!(class);
            config["timestep_spacing"] = json!(spacing);
            config["prediction_type"] = json!(prediction);
        });
        let product = load_cpu(&model).unwrap().run(&[item(input.clone())]).remove(0).unwrap();
        let (width, height, pixels) = decode(&product.outputs[0]);
        let (width, height) = (width as usize, height as usize);
        let places = [(0, 0), (height / 2, width / 2), (height - 1, width - 1), (5, width - 9)];
        for ((row, column), known) in places.into_iter().zip(known) {
            let at = (row * width + column) * 3;
            let apart = known.iter().zip(&pixels[at..at + 3]).map(|(known, found)| known.abs_diff(*found)).max();
            assert!(apart <= Some(1), "{input}: {:?} is not {known:?}", &pixels[at..at + 3]);
        }
    }
}

//! Which of a source's files a worker loads. A published repository holds the same weights in several formats and
//! precisions, tens of gigabytes of them; a diffusers folder needs one of each.

use std::collections::{BTreeMap, BTreeSet};

use super::store::RemoteFile;

/// Why a listing has nothing to load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PickError {
    /// Nothing in it is of a format that is loaded.
    #[error(
        "none of its {0} files is a .safetensors or .gguf file of a model's folder; other formats (.bin, .ckpt, .onnx) are not read"
    )]
    NoWeights(usize),
    /// Its weights are several GGUF files, each of them a whole model.
    #[error("it holds {}: set variant in model.source to a part of one's name, such as Q4_K_M", .0.join(", "))]
    SeveralGguf(Vec<String>),
    /// A folder has its weights in other variants only.
    #[error("{folder} holds only the variant {}: set variant in model.source to {}", variants.join(", "), variants.join(" or "))]
    OnlyVariants {
        /// The folder within the model.
        folder: String,
        /// What it has.
        variants: Vec<String>,
    },
}

/// Components of published pipelines that no task runs, each of a gigabyte or more.
const UNUSED: [&str; 2] = ["safety_checker", "image_encoder"];

/// Chooses from `files`: configuration and vocabulary (.json, .txt, .jinja), and in every folder the .safetensors files of
/// `variant` where it has some, else those of none; in `lora` all of them, as each is another adapter. Beside a
/// `model_index.json` lie single-file copies of the whole pipeline; they are left out. Where there are no safetensors, one GGUF
/// file is taken, whose name has `variant` in it where there are several.
pub(super) fn pick(files: Vec<RemoteFile>, variant: Option<&str>) -> Result<Vec<RemoteFile>, PickError> {
    let listed = files.len();
    let is_pipeline = files.iter().any(|file| file.path == "model_index.json");
    let (mut chosen, mut gguf) = (Vec::new(), Vec::new());
    let mut weights: BTreeMap<String, Vec<RemoteFile>> = BTreeMap::new();
    for file in files {
        let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        match extension {
            "json" | "txt" | "jinja" => chosen.push(file),
            "gguf" if folder.is_empty() => gguf.push(file),
            "safetensors" if is_pipeline && folder == "lora" => chosen.push(file),
            "safetensors" if !(is_pipeline && (folder.is_empty() || UNUSED.contains(&folder))) => {
                weights.entry(folder.to_owned()).or_default().push(file);
            }
            _ => {}
        }
    }
    if weights.is_empty() {
        if gguf.is_empty() {
            return Err(PickError::NoWeights(listed));
        }
        let names: Vec<&str> = gguf.iter().map(|file| file.path.as_str()).collect();
        let several = || PickError::SeveralGguf(names.iter().map(ToString::to_string).collect());
        let only = only_gguf(&names, variant).ok_or_else(several)?.to_owned();
        chosen.extend(gguf.into_iter().filter(|file| file.path == only));
    }
    for (folder, files) in weights {
        let present: BTreeSet<Option<&str>> = files.iter().map(|file| variant_of(&file.path)).collect();
        let wanted = variant.filter(|v| present.contains(&Some(v)));
        if !present.contains(&wanted) {
            let variants = present.into_iter().flatten().map(str::to_owned).collect();
            return Err(PickError::OnlyVariants { folder, variants });
        }
        chosen.extend(files.into_iter().filter(|file| variant_of(&file.path) == wanted));
    }
    chosen.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(chosen)
}

/// The one of some GGUF files that is meant: the only one, or the only one whose name has `variant` in it, in small letters or large.
pub(in crate::model) fn only_gguf<'a>(names: &[&'a str], variant: Option<&str>) -> Option<&'a str> {
    if let [only] = names {
        return Some(only);
    }
    let wanted = variant?.to_lowercase();
    let mut found = names.iter().filter(|name| name.to_lowercase().contains(&wanted));
    found.next().copied().filter(|_| found.next().is_none())
}

/// The variant in a weight file's name: `fp16` of `model.fp16.safetensors`, also where the file is one of several
/// (`model.fp16-00001-of-00002.safetensors`, formerly `model-00001-of-00002.fp16.safetensors`). A version is none:
/// `sd_xl_turbo_1.0.safetensors`.
fn variant_of(path: &str) -> Option<&str> {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let (_, infix) = name.strip_suffix(".safetensors")?.rsplit_once('.')?;
    let variant = without_shard(infix);
    variant.starts_with(|c: char| c.is_ascii_alphabetic()).then_some(variant)
}

/// `fp16` of `fp16-00001-of-00002`.
fn without_shard(infix: &str) -> &str {
    let is_number = |part: &str| part.len() == 5 && part.bytes().all(|b| b.is_ascii_digit());
    match infix.rsplitn(4, '-').collect::<Vec<_>>()[..] {
        [count, "of", index, stem] if is_number(count) && is_number(index) => stem,
        _ => infix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lies in stabilityai/sdxl-turbo and its like.
    const PUBLISHED: &[&str] = &[
        ".gitattributes",
        "LICENSE.md",
        "README.md",
        "model_index.json",
        "output_tile.jpg",
        "scheduler/scheduler_config.json",
        "sd_xl_turbo_1.0.safetensors",
        "sd_xl_turbo_1.0_fp16.safetensors",
        "text_encoder/config.json",
        "text_encoder/flax_model.msgpack",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.onnx",
        "text_encoder/model.safetensors",
        "text_encoder/openvino_model.bin",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ];

    #[test]
    fn adapters_are_taken_and_what_nobody_runs_is_not() {
        let mut listed = files(PUBLISHED);
        let more = [
            "lora/a.safetensors",
            "lora/b.v2.safetensors",
            "safety_checker/model.safetensors",
            "image_encoder/model.safetensors",
        ];
        listed.extend(files(&more));
        let picked = pick(listed, None).unwrap();
        let has = |path: &str| picked.iter().any(|file| file.path == path);
        assert_eq!(more.map(has), [true, true, false, false]);
    }

    fn files(paths: &[&str]) -> Vec<RemoteFile> {
        paths.iter().map(|path| RemoteFile { path: (*path).into(), size: 1, etag: "e".into() }).collect()
    }

    fn picked(paths: &[&str], variant: Option<&str>) -> Result<Vec<String>, PickError> {
        Ok(pick(files(paths), variant)?.into_iter().map(|file| file.path).collect())
    }

    const CONFIGURATION: [&str; 5] = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
    ];

    #[test]
    fn one_set_of_weights_per_folder() {
        let cases: [(Option<&str>, [&str; 3]); 4] = [
            (
                None,
                [
                    "text_encoder/model.safetensors",
                    "unet/diffusion_pytorch_model.safetensors",
                    "vae/diffusion_pytorch_model.safetensors",
                ],
            ),
            (
                Some("fp16"),
                [
                    "text_encoder/model.fp16.safetensors",
                    "unet/diffusion_pytorch_model.fp16.safetensors",
                    "vae/diffusion_pytorch_model.safetensors", // has no fp16
                ],
            ),
            (
                Some("non_ema"),
                [
                    "text_encoder/model.safetensors",
                    "unet/diffusion_pytorch_model.non_ema.safetensors",
                    "vae/diffusion_pytorch_model.safetensors",
                ],
            ),
            (
                Some("int8"), // nowhere
                [
                    "text_encoder/model.safetensors",
                    "unet/diffusion_pytorch_model.safetensors",
                    "vae/diffusion_pytorch_model.safetensors",
                ],
            ),
        ];
        for (variant, weights) in cases {
            let mut expected: Vec<&str> = CONFIGURATION.into_iter().chain(weights).collect();
            expected.sort_unstable();
            assert_eq!(picked(PUBLISHED, variant).unwrap(), expected, "{variant:?}");
        }
    }

    #[test]
    fn a_folder_of_variants_only_says_which() {
        let paths = ["unet/model.fp16.safetensors", "unet/model.bf16.safetensors", "vae/model.safetensors"];
        let error = picked(&paths, None).unwrap_err();
        assert_eq!(
            error,
            PickError::OnlyVariants { folder: "unet".into(), variants: vec!["bf16".into(), "fp16".into()] }
        );
        assert!(error.to_string().contains("set variant in model.source to bf16 or fp16"), "{error}");
        assert_eq!(picked(&paths, Some("bf16")).unwrap(), ["unet/model.bf16.safetensors", "vae/model.safetensors"]);
    }

    #[test]
    fn without_weights_there_is_no_model() {
        assert_eq!(picked(&["a.json", "model.bin", "unet/model.ckpt"], None), Err(PickError::NoWeights(3)));
        // beside model_index.json a single file is a copy, not a component
        assert_eq!(picked(&["model_index.json", "sdxl.safetensors"], None), Err(PickError::NoWeights(2)));
        assert_eq!(picked(&["config.json", "model.safetensors"], None).unwrap(), ["config.json", "model.safetensors"]);
    }

    #[test]
    fn of_gguf_files_one_is_taken() {
        let paths =
            ["a-Q4_K_M.gguf", "a-Q8_0.gguf", "config.json", "old/a.gguf", "tokenizer.json", "chat_template.jinja"];
        let wanted = ["a-Q8_0.gguf", "chat_template.jinja", "config.json", "tokenizer.json"];
        assert_eq!(picked(&paths, Some("q8_0")).unwrap(), wanted);
        for variant in [None, Some("a-"), Some("Q2_K")] {
            let error = picked(&paths, variant).unwrap_err();
            assert_eq!(error, PickError::SeveralGguf(vec![paths[0].into(), paths[1].into()]));
            assert!(error.to_string().contains("such as Q4_K_M"), "{error}");
        }
        assert_eq!(picked(&["a.gguf"], None).unwrap(), ["a.gguf"]);
        assert_eq!(picked(&["a.gguf", "model.safetensors"], None).unwrap(), ["model.safetensors"]);
    }

    #[test]
    fn variants_are_read_from_names() {
        for (name, variant) in [
            ("unet/model.safetensors", None),
            ("model.fp16.safetensors", Some("fp16")),
            ("model-00001-of-00002.safetensors", None),
            ("unet/model.fp16-00001-of-00002.safetensors", Some("fp16")),
            ("model-00001-of-00002.fp16.safetensors", Some("fp16")),
            ("model.non-ema.safetensors", Some("non-ema")),
            ("sd_xl_turbo_1.0.safetensors", None),
            ("v1.5/model.safetensors", None),
        ] {
            assert_eq!(variant_of(name), variant, "{name}");
        }
    }
}

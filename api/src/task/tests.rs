use serde_json::{Map, Value, json};

use super::*;

const PROMPT: Field = Field::text(&["prompt"], 8, "");
const PICTURE: Field = Field::file(&["picture", "image"], "");
const TEXTS: Field = Field::new(&["texts"], Kind::Texts { most: 2, longest: 3 }, "").of_the_job();
const STEPS: Field = Field::integer(&["steps", "num_inference_steps"], 1, 150, "").default("50");
const WIDTH: Field = Field::new(&["width"], Kind::Integer { least: 64, most: 2048, step: 8 }, "");
const SCALE: Field = Field::number(&["guidance_scale"], 0.0, 50.0, "");
const SEED: Field = Field::integer(&["seed"], 0, u64::MAX, "");
const RAW: Field = Field::flag(&["raw"], "");
const FORMAT: Field = Field::word(&["format"], &["png", "jpeg", "webp"], "");
const LORA: Field = Field::new(&["lora"], Kind::Other("a list"), "").of_the_consumer("is merged at load");
const TASK: Declaration = Declaration {
    task: "Task",
    about: "",
    needs: &[PROMPT, PICTURE],
    needed: "what to do",
    fields: &[TEXTS, STEPS, WIDTH, SCALE, SEED, RAW, FORMAT, LORA],
    open: false,
};

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn job(mut value: Value) -> Vec<String> {
    value["prompt"] = value.get("prompt").cloned().unwrap_or_else(|| "x".into());
    TASK.check_job(&object(&value), &Map::new()).iter().map(ToString::to_string).collect()
}

#[test]
fn each_bad_field_says_what_is_right() {
    let valid = "prompt, picture, texts, steps, width, guidance_scale, seed, raw, format";
    let cases = [
        (json!({"steps": 0}), "steps: must be an integer from 1 to 150, not 0".to_owned()),
        (json!({"steps": 4.5}), "steps: must be an integer from 1 to 150, not 4.5".into()),
        (json!({"steps": -1}), "steps: must be an integer from 1 to 150, not -1".into()),
        (
            json!({"steps": "20"}),
            "steps: must be an integer from 1 to 150, not the text \"20\" (remove the quotes)".into(),
        ),
        (json!({"num_inference_steps": 151}), "num_inference_steps: must be an integer from 1 to 150, not 151".into()),
        (
            json!({"steps": 1, "num_inference_steps": 1}),
            "num_inference_steps: is another name of steps; give one of the two".into(),
        ),
        (json!({"width": 100}), "width: must be a multiple of 8, not 100; the nearest are 96 and 104".into()),
        (json!({"width": 32}), "width: must be an integer from 64 to 2048, not 32".into()),
        (json!({"guidance_scale": 51}), "guidance_scale: must be a number from 0 to 50, not 51".into()),
        (json!({"guidance_scale": true}), "guidance_scale: must be a number from 0 to 50, not true".into()),
        (json!({"prompt": 7}), "prompt: must be a text, not 7".into()),
        (json!({"prompt": ["a"]}), "prompt: must be a text, not a list".into()),
        (json!({"prompt": "nine byte"}), "prompt: has 9 bytes; at most 8 are read".into()),
        (json!({"seed": 1e30}), "seed: must be an integer from 0 to 18446744073709551615, not 1e+30".into()),
        (json!({"raw": 1}), "raw: must be true or false, not 1".into()),
        (json!({"format": "gif"}), "format: must be png, jpeg or webp, not gif".into()),
        (json!({"image": {}}), "image: must be a text, not an object".into()),
        (json!({"texts": "a"}), "texts: must be a list of texts, not the text \"a\"".into()),
        (json!({"texts": ["a", 7]}), "texts: must be a list of texts; entry 1 is 7".into()),
        (json!({"texts": ["a", "four"]}), "texts[1]: has 4 bytes; at most 3 are read".into()),
        (json!({"texts": []}), "texts: must have from 1 to 2 texts, not 0".into()),
        (json!({"lora": []}), "lora: is merged at load".into()),
        (json!({"promt": "x"}), format!("promt: unknown field; did you mean prompt? (valid: {valid})")),
        (json!({"zzz": 1}), format!("zzz: unknown field (valid: {valid})")),
    ];
    for (input, message) in cases {
        assert_eq!(job(input.clone()), [message], "{input}");
    }
}

#[test]
fn what_is_right_is_taken() {
    let right = [
        json!({}),
        json!({"steps": 4.0, "width": 512, "guidance_scale": 7, "seed": u64::MAX}),
        json!({"steps": null, "num_inference_steps": 3}),
        json!({"raw": false, "format": "png", "texts": ["a", ""], "image": "aGk="}),
    ];
    for input in right {
        assert_eq!(job(input.clone()), [""; 0], "{input}");
    }
}

#[test]
fn one_of_what_is_needed_must_be_there() {
    let wrong =
        |value: Value| TASK.check_job(&object(&value), &Map::new()).iter().map(ToString::to_string).collect::<Vec<_>>();
    let missing = ["prompt: is required, or picture: what to do"];
    assert_eq!(wrong(json!({})), missing);
    assert_eq!(wrong(json!({"prompt": null})), missing);
    assert_eq!(wrong(json!({"image": "aGk="})), [""; 0]);
    assert_eq!(TASK.check_job(&Map::new(), &object(&json!({"prompt": "of the consumer's"}))), []);
}

#[test]
fn everything_that_is_wrong_is_told() {
    assert_eq!(job(json!({"steps": 0, "width": 1, "zzz": 1})).len(), 3);
}

#[test]
fn parameters_are_named_where_they_stand() {
    let wrong =
        |value: Value| TASK.check_parameters(&object(&value)).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(wrong(json!({"steps": 4, "lora": [{}]})), [""; 0]);
    assert_eq!(wrong(json!({"steps": "4"})).len(), 1);
    assert!(wrong(json!({"steps": "4"}))[0].starts_with("model.parameters.steps: must be an integer"));
    assert_eq!(wrong(json!({"texts": ["a"]})), ["model.parameters.texts: is a job's own; remove it here"]);
    assert_eq!(
        wrong(json!({"steps": 1, "num_inference_steps": 1})),
        ["model.parameters.num_inference_steps: is another name of model.parameters.steps; give one of the two"]
    );
    let valid = "(valid: prompt, steps, width, guidance_scale, seed, raw, format, lora)";
    assert_eq!(
        wrong(json!({"guidance": 1})),
        [format!("model.parameters.guidance: unknown field; did you mean guidance_scale? {valid}")]
    );
}

#[test]
fn a_job_of_an_open_task_may_say_more() {
    let open = Declaration { open: true, ..TASK };
    let more = object(&json!({"prompt": "x", "zzz": 1}));
    assert_eq!(open.check_job(&more, &Map::new()), []);
    assert_eq!(open.check_parameters(&more).len(), 1);
}

#[test]
fn no_name_is_of_two_fields() {
    for task in DECLARED {
        let names: Vec<_> = task.all().flat_map(|field| field.names).collect();
        let mut once = names.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), names.len(), "{}", task.task);
        assert!(task.all().all(|field| !field.names.is_empty() && !field.about.is_empty()), "{}", task.task);
    }
}

#[test]
fn schemas_say_what_the_declaration_says() {
    let schema = input_schema(&TASK);
    assert_eq!(schema["properties"]["num_inference_steps"]["maximum"], 150);
    assert_eq!(schema["properties"]["width"]["multipleOf"], 8);
    assert_eq!(schema["properties"]["width"]["type"], json!(["integer", "null"]));
    assert_eq!(schema["properties"]["format"]["enum"], json!(["png", "jpeg", "webp", null]));
    assert_eq!(schema.get("anyOf"), None, "the consumer may give the prompt");
    let needs = input_schema(&Declaration { needs: &[TEXTS], ..TASK });
    assert_eq!(needs["anyOf"], json!([{"required": ["texts"]}]));
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"].get("lora"), None);
    let parameters = parameters_schema(&TASK);
    assert!(parameters["properties"].get("lora").is_some());
    assert_eq!((parameters["properties"].get("texts"), parameters.get("anyOf")), (None, None));
}

#[test]
fn the_docs_are_those_of_the_code() {
    // cargo runs tests in their package's folder; a path from compile time may be another checkout's
    let read = |path: &str| std::fs::read_to_string(format!("../docs/{path}")).unwrap_or_default();
    assert!(read("tasks.md") == page(&DECLARED), "docs/tasks.md drifted: run `make tasks`");
    for task in DECLARED {
        for (name, schema) in [("input", input_schema(task)), ("parameters", parameters_schema(task))] {
            let path = format!("schemas/{}.{name}.json", task.task);
            let file: Value = serde_json::from_str(&read(&path)).unwrap_or_default();
            assert!(file == schema, "docs/{path} drifted: run `make tasks`");
        }
    }
}

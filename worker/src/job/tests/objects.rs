//! Objects that fields of an input name.

use super::*;

const FIELDS: &[&str] = &["image", "mask"];

fn found(body: &Value) -> Result<Vec<(usize, &'static str, String)>, InvalidInput> {
    let (forms, job) = (open(), job(auto(&body.to_string())));
    let named = forms.objects_of(&job, FIELDS)?;
    Ok(named.into_iter().map(|named| (named.input, named.field, named.object.to_string())).collect())
}

#[test]
fn fields_name_objects() {
    let one = json!({"prompt": "a cat", "image": "s3://images/a/b.png", "mask": "aGk="});
    assert_eq!(found(&one).unwrap(), [(0, "image", "s3://images/a/b.png".to_owned())]);
    let many = json!({"job_id": "j", "inputs": ["a cat", {"prompt": "s3://images/x", "mask": "s3://photos-bodies/m"}]});
    assert_eq!(found(&many).unwrap(), [(1, "mask", "s3://photos-bodies/m".to_owned())]);
    assert_eq!(found(&json!({"prompt": "a cat", "image": 7})).unwrap(), []);
}

#[test]
fn only_what_the_consumer_allows_is_read() {
    let cases = [
        (json!({"image": "s3://secrets/a"}), "image", "queue.allow.inputBuckets"),
        (json!({"image": "s3://images"}), "image", "must be s3://bucket/key"),
        (json!({"mask": "s3:///key"}), "mask", "must be s3://bucket/key"),
        (json!({"job_id": "j", "inputs": [{"mask": "s3://secrets/a"}]}), "inputs[0].mask", "queue.allow.inputBuckets"),
    ];
    for (body, field, words) in cases {
        let error = found(&body).unwrap_err();
        assert_eq!(error.field.as_deref(), Some(field), "{body}");
        assert!(error.message.contains(words), "{error}");
    }
}

#[test]
fn an_objects_content_takes_its_names_place() {
    let body = json!({"prompt": "a cat", "image": "s3://images/a"});
    let (forms, mut job) = (open(), job(auto(&body.to_string())));
    let sha256 = job.head.input_sha256.clone();
    let named = forms.objects_of(&job, FIELDS).unwrap().remove(0);
    job.put_content(&named, b"hi");
    assert_eq!(inputs(&job), [object(json!({"prompt": "a cat", "image": "aGk="}))]);
    assert_eq!(job.head.input_sha256, sha256, "which says what was asked for");
}

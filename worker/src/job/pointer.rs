//! A body that lies in S3, as the SQS extended client libraries send it:
//! `["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"…","s3Key":"…"}]`.

use millrace_api::BodyFormat;
use serde::Deserialize;

use super::ObjectRef;
use crate::message::Message;
use crate::model::InvalidInput;

/// What the libraries call a pointer, the newer name first.
const CLASSES: [&str; 2] =
    ["software.amazon.payloadoffloading.PayloadS3Pointer", "com.amazon.sqs.javamessaging.MessageS3Pointer"];
/// The attributes by which they tell one, the newer name first; the value is the body's size in bytes.
const ATTRIBUTES: [&str; 2] = ["ExtendedPayloadSize", "SQSLargePayloadSize"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pointer {
    s3_bucket_name: String,
    s3_key: String,
}

/// The object that holds the body, where the message is a pointer. `Text` takes a body as it is unless the attribute
/// says that it is none.
pub fn read(message: &Message, format: BodyFormat) -> Result<Option<ObjectRef>, InvalidInput> {
    let size = ATTRIBUTES.iter().find_map(|name| Some((*name, message.attributes.get(*name)?)));
    let told = format != BodyFormat::Text && is_pointer(&message.body);
    if size.is_none() && !told {
        return Ok(None);
    }
    let pointer: Result<(String, Pointer), _> = serde_json::from_str(&message.body);
    match (pointer, size) {
        (Ok((class, pointer)), _) if CLASSES.contains(&class.as_str()) => Ok(Some(ObjectRef {
            bucket: pointer.s3_bucket_name,
            key: pointer.s3_key,
            version: None,
            etag: None,
            size: size.and_then(|(_, bytes)| bytes.parse().ok()),
        })),
        (_, Some((name, _))) => Err(InvalidInput::field(
            name,
            format!(
                "says that the body lies in S3, and the body is not [\"{}\",{{\"s3BucketName\":…,\"s3Key\":…}}]",
                CLASSES[0]
            ),
        )),
        (Ok((class, _)), None) => Err(InvalidInput::body(format!("the pointer's class {class} is not known"))),
        (Err(error), None) => Err(InvalidInput::body(format!("the pointer to the body in S3 cannot be read: {error}"))),
    }
}

/// Whether a body begins as a pointer does.
pub fn is_pointer(body: &str) -> bool {
    let inner = body.trim_start().strip_prefix('[').map(str::trim_start).and_then(|rest| rest.strip_prefix('"'));
    inner.is_some_and(|rest| CLASSES.iter().any(|class| rest.strip_prefix(class).is_some_and(|r| r.starts_with('"'))))
}

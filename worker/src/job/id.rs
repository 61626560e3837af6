//! A job's id, safe for a key: as the producer wrote it, or made from what it names.

use millrace_api::{MAX_JOB_ID, encode_job_id};
use sha2::{Digest, Sha256};

use super::JobHead;
use crate::model::InvalidInput;

/// Hex digits of the hash that stands for what was cut off.
const HASH_DIGITS: usize = 32;

/// Takes the id that the producer gave in `field`.
pub fn take(head: &mut JobHead, field: &str, id: &str) -> Result<(), InvalidInput> {
    take_as_is(head, id).map_err(|length| {
        let message = format!("must have 1 to {MAX_JOB_ID} characters once encoded, has {length}");
        InvalidInput::field(field, message)
    })?;
    head.id_is_producers = true;
    Ok(())
}

/// Takes the id of the message that the job first came in. It is no name: whatever names the job goes before it.
pub fn take_first(head: &mut JobHead, message_id: &str) {
    // one that cannot be an id was put there by somebody else
    let _ = take_as_is(head, message_id);
}

/// Takes an id, or gives its length where that is not one of an id.
fn take_as_is(head: &mut JobHead, id: &str) -> Result<(), usize> {
    let encoded = encode_job_id(id);
    if !(1..=MAX_JOB_ID).contains(&encoded.len()) {
        return Err(encoded.len());
    }
    head.id = encoded;
    head.raw_id = id.into();
    Ok(())
}

/// Takes an id that was made from what the message names: of one that is too long the beginning, and a hash of it all.
pub fn take_made(head: &mut JobHead, made: &str) {
    let mut raw = made.to_owned();
    if encode_job_id(made).len() > MAX_JOB_ID {
        let hash = hex::encode(Sha256::digest(made.as_bytes()));
        let mut room = MAX_JOB_ID - HASH_DIGITS - 1;
        let fits = |c: &char| {
            let left = room.checked_sub(encode_job_id(c.encode_utf8(&mut [0; 4])).len());
            left.inspect(|left| room = *left).is_some()
        };
        raw = made.chars().take_while(fits).collect();
        raw = format!("{raw}-{}", &hash[..HASH_DIGITS]);
    }
    head.id = encode_job_id(&raw);
    head.raw_id = raw;
    head.id_is_producers = true;
}

//! `output.keyTemplate`: an output's S3 key from a job's fields.

use std::fmt::Write as _;
use std::str::FromStr;

/// A parsed template such as `image_{message_id}.{extension}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTemplate(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Field(Field),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    JobId,
    MessageId,
    Index,
    Extension,
    Name,
    Date,
}

/// What a template is filled with.
#[derive(Debug, Clone, Copy)]
pub struct KeyFields<'a> {
    /// The job's id, already made safe for a key.
    pub job_id: &'a str,
    /// SQS's message id.
    pub message_id: &'a str,
    /// Which output of the job, from 0.
    pub index: usize,
    /// How many outputs the job has. With more than one and no `{index}` in the template, `-{index}` goes before the extension.
    pub count: usize,
    /// File extension without its dot.
    pub extension: &'a str,
    /// The consumer's name.
    pub name: &'a str,
    /// The day on which the message was sent, UTC, `2026-11-23`.
    pub date: &'a str,
}

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyTemplateError {
    /// A field that does not exist.
    #[error("unknown field {{{0}}} in keyTemplate; known are job_id, message_id, index, extension, name, date")]
    UnknownField(String),
    /// A brace without its partner.
    #[error("unbalanced brace in keyTemplate at byte {0}")]
    Unbalanced(usize),
    /// Keys of different jobs would be equal.
    #[error("keyTemplate must contain {{job_id}} or {{message_id}}, or jobs would overwrite each other")]
    NotUnique,
}

impl FromStr for KeyTemplate {
    type Err = KeyTemplateError;

    fn from_str(template: &str) -> Result<Self, Self::Err> {
        let mut parts = Vec::new();
        let mut rest = template;
        while !rest.is_empty() {
            let at = template.len() - rest.len();
            let Some(brace) = rest.find(['{', '}']) else {
                parts.push(Part::Literal(rest.into()));
                break;
            };
            if brace > 0 {
                parts.push(Part::Literal(rest[..brace].into()));
            }
            let Some(inner) = rest[brace..].strip_prefix('{') else {
                return Err(KeyTemplateError::Unbalanced(at + brace));
            };
            let Some((name, after)) = inner.split_once('}') else {
                return Err(KeyTemplateError::Unbalanced(at + brace));
            };
            parts.push(Part::Field(match name {
                "job_id" => Field::JobId,
                "message_id" => Field::MessageId,
                "index" => Field::Index,
                "extension" => Field::Extension,
                "name" => Field::Name,
                "date" => Field::Date,
                other => return Err(KeyTemplateError::UnknownField(other.into())),
            }));
            rest = after;
        }
        let template = Self(parts);
        if template.has(Field::JobId) || template.has(Field::MessageId) {
            Ok(template)
        } else {
            Err(KeyTemplateError::NotUnique)
        }
    }
}

impl KeyTemplate {
    /// A key that is what it says: braces mean nothing in it.
    pub fn literal(key: &str) -> Self {
        Self(vec![Part::Literal(key.into())])
    }

    fn has(&self, field: Field) -> bool {
        self.0.contains(&Part::Field(field))
    }

    /// The key, without the output prefix.
    pub fn render(&self, fields: &KeyFields<'_>) -> String {
        let mut key = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => key.push_str(text),
                Part::Field(Field::JobId) => key.push_str(fields.job_id),
                Part::Field(Field::MessageId) => key.push_str(fields.message_id),
                Part::Field(Field::Index) => {
                    // writing to a String cannot fail
                    let _ = write!(key, "{}", fields.index);
                }
                Part::Field(Field::Extension) => key.push_str(fields.extension),
                Part::Field(Field::Name) => key.push_str(fields.name),
                Part::Field(Field::Date) => key.push_str(fields.date),
            }
        }
        if fields.count > 1 && !self.has(Field::Index) {
            let suffix = format!(".{}", fields.extension);
            let stem = key.strip_suffix(&suffix).map(str::len);
            key.insert_str(stem.unwrap_or(key.len()), &format!("-{}", fields.index));
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, index: usize, count: usize) -> String {
        let template: KeyTemplate = template.parse().unwrap();
        template.render(&KeyFields {
            job_id: "j",
            message_id: "m",
            index,
            count,
            extension: "png",
            name: "sdxl",
            date: "2026-11-23",
        })
    }

    #[test]
    fn fills_every_field() {
        assert_eq!(render("image_{message_id}.{extension}", 0, 1), "image_m.png");
        assert_eq!(render("{date}/{name}/{job_id}/{index}.{extension}", 2, 3), "2026-11-23/sdxl/j/2.png");
    }

    #[test]
    fn several_outputs_never_share_a_key() {
        assert_eq!(render("{job_id}.{extension}", 1, 2), "j-1.png");
        assert_eq!(render("{job_id}", 1, 2), "j-1");
        assert_eq!(render("{job_id}/{index}", 1, 2), "j/1");
    }

    #[test]
    fn refuses_what_it_cannot_fill() {
        let error = |t: &str| t.parse::<KeyTemplate>().unwrap_err();
        assert_eq!(error("{job}.png"), KeyTemplateError::UnknownField("job".into()));
        assert_eq!(error("a{job_id"), KeyTemplateError::Unbalanced(1));
        assert_eq!(error("{job_id}}"), KeyTemplateError::Unbalanced(8));
        assert_eq!(error("image.png"), KeyTemplateError::NotUnique);
    }
}

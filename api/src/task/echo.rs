//! What task Echo accepts.

use super::{Declaration, Field};

/// The longest time that an echo may take: one hour.
const MOST_MILLISECONDS: u64 = 3_600_000;

pub const MILLISECONDS: Field =
    Field::integer(&["milliseconds"], 0, MOST_MILLISECONDS, "how long it takes").default("0");

pub const DECLARATION: Declaration = Declaration {
    task: "Echo",
    about: "Any input, which is the record's `value` (a text beside fields, as Celery has it, comes back as a list of \
            both): for trying out a queue and for load tests.",
    needs: &[],
    needed: "",
    fields: &[MILLISECONDS],
    open: true,
};

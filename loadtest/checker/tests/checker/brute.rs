//! Brute force: decides whether the operations of one row can be put in an order that a register
//! allows, by trying every order. It verifies the theorem of `linearizable` without using it.
//!
//! **Invariant:** an order respects time: an operation that ended before another began comes first.
//! **Not here:** histories of more than a handful of operations, which would take too long.

use checker::history::{Kind, NEVER, Operation, Outcome, Value};

/// State of a register: the current position in the order of versions, and the value. Changes of
/// unknown version lie between two versions and are counted there.
#[derive(Clone, Copy, Default)]
struct Register {
    version: u64,
    after: u32,
    value: Option<Value>,
}

/// Requirements of an operation, which are computed once.
struct Step {
    one: Operation,
    /// Version from the response of the operation, or from a read of its value.
    version: Option<u64>,
    /// Time by which the operation must have happened; [`NEVER`] if there was no response.
    end: u64,
    /// True if the operation may not have happened at all.
    optional: bool,
}

/// Returns true if there is an order that a register allows for all acknowledged changes, all
/// strong reads, and all changes of unknown outcome whose values were read.
pub(crate) fn is_linearizable(operations: &[Operation]) -> bool {
    let steps: Vec<Step> = operations.iter().filter_map(|one| step(*one, operations)).collect();
    extend(&steps, 0, Register::default())
}

fn step(one: Operation, all: &[Operation]) -> Option<Step> {
    if !one.changes() {
        let version = Some(one.version).filter(|&version| version != 0);
        return one.is_strong_read().then_some(Step {
            one,
            version,
            end: one.end,
            optional: false,
        });
    }
    let taught = all.iter().find(|read| read.is_answered_read() && read.value == one.value);
    let version = Some(one.version).filter(|&version| version != 0);
    let version = version.or(taught.map(|read| read.version));
    match one.outcome {
        Outcome::Ok | Outcome::Committed => {
            Some(Step { one, version, end: one.end, optional: false })
        }
        Outcome::Unknown => Some(Step { one, version, end: NEVER, optional: version.is_none() }),
        Outcome::Rejected => None,
    }
}

/// Tries each step that may come next. `done` has a bit for each step that is already in the order.
fn extend(steps: &[Step], done: u32, register: Register) -> bool {
    let open: Vec<usize> = (0..steps.len()).filter(|step| done & 1 << step == 0).collect();
    if open.iter().all(|&step| steps[step].optional) {
        return true;
    }
    open.iter().any(|&next| {
        let waits = open.iter().any(|&other| steps[other].end < steps[next].one.start);
        !waits
            && apply(&steps[next], register)
                .is_some_and(|register| extend(steps, done | 1 << next, register))
    })
}

/// Returns the register after a step; `None` if the step is not allowed.
fn apply(step: &Step, register: Register) -> Option<Register> {
    let value = Some(step.one.value).filter(|_| step.one.kind != Kind::Delete);
    if step.one.changes() {
        return match step.version {
            Some(version) => {
                (version > register.version).then_some(Register { version, after: 0, value })
            }
            None => Some(Register { after: register.after + 1, value, ..register }),
        };
    }
    let holds = register.value.unwrap_or(Value::NONE) == step.one.value;
    let stands =
        step.version.is_none_or(|version| (version, 0) == (register.version, register.after));
    (holds && stands).then_some(register)
}

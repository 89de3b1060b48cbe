//! RANDOM, SAMPLE, UUID. Evaluation has no randomness of its own: it asks for random bytes.

use std::rc::Rc;

use photondb_proto::datum::Datum;
use photondb_proto::term::number;
use uuid::Uuid;

use super::{Arity, Determinism, Eval, Invocation, TermDef};
use crate::call::{check_array_size, exact_number, integer};
use crate::cursor::Cursor;
use crate::failure::{Failure, Outcome};
use crate::group;
use crate::run::Run;
use crate::stream::Sequence;
use crate::value::Value;

pub static TERMS: &[TermDef] = &[
    TermDef {
        name: "RANDOM",
        number: number::RANDOM,
        arity: Arity::between(0, 2),
        options: &["float"],
        determinism: Determinism::Never,
        eval: Eval::Strict(|run, invocation| Box::pin(random(run, invocation))),
    },
    TermDef {
        name: "SAMPLE",
        number: number::SAMPLE,
        arity: Arity::exactly(2),
        options: &[],
        determinism: Determinism::Never,
        eval: Eval::Strict(|run, invocation| Box::pin(sample(run, invocation))),
    },
    TermDef {
        name: "UUID",
        number: number::UUID,
        arity: Arity::between(0, 1),
        options: &[],
        determinism: Determinism::Never,
        eval: Eval::Strict(|run, invocation| Box::pin(uuid(run, invocation))),
    },
];

/// Named UUIDs live in this namespace.
const NAMESPACE: Uuid = Uuid::from_u128(0x91461c99_f89d_49d2_af96_d8e2e14e9b58);

async fn uuid(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let uuid = if invocation.count() == 1 {
        Uuid::new_v5(&NAMESPACE, invocation.string(0)?.as_bytes())
    } else {
        let random = run.random(16).await?;
        let bytes: [u8; 16] = random.try_into().map_err(|_| Failure::internal("sixteen random bytes"))?;
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    };
    Ok(Value::Datum(Datum::String(uuid.to_string().into())))
}

fn eight(random: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&random[..8]);
    u64::from_le_bytes(bytes)
}

/// A double in [0, 1).
fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// The number that lies `part` of the way from `low`, which it may be, to `high`, which it is not unless the bounds are equal.
fn within(low: f64, high: f64, part: f64) -> f64 {
    // The difference of the bounds may be more than a number can be.
    let number = low * (1.0 - part) + high * part;
    let is_inside = if low < high { low <= number && number < high } else { high < number && number <= low };
    // What rounding has moved out of the bounds comes back.
    if is_inside { number } else { low }
}

/// A number below `count`; the bias of a 128-bit product is beyond notice.
fn below(random: u64, count: u64) -> u64 {
    ((u128::from(random) * u128::from(count)) >> 64) as u64
}

async fn random(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let number = eight(&run.random(8).await?);
    let float = match invocation.call.option("float") {
        None => invocation.count() == 0,
        Some(argument) => argument.value.as_datum().is_some_and(Datum::is_truthy),
    };
    if invocation.count() == 0 {
        if !float {
            return Err(Failure::logic("Generating a random integer requires one or two bounds."));
        }
        return Ok(Value::Datum(Datum::Number(unit(number))));
    }
    let (low, high) = match invocation.count() {
        1 => (0.0, invocation.number(0)?),
        _ => (invocation.number(0)?, invocation.number(1)?),
    };
    if float {
        return Ok(Value::Datum(Datum::Number(within(low, high, unit(number)))));
    }
    let exact = |which: &str, bound: f64| {
        integer(bound).map_err(|_| {
            Failure::logic(format!(
                "{which} bound ({}) could not be safely converted to an integer.",
                exact_number(bound)
            ))
        })
    };
    let (low, high) = (exact("Lower", low)?, exact("Upper", high)?);
    if low >= high {
        return Err(Failure::logic(format!("Lower bound ({low}) is not less than upper bound ({high}).")));
    }
    let chosen = low + below(number, (high - low) as u64) as i64;
    Ok(Value::Datum(Datum::Number(chosen as f64)))
}

/// Random numbers asked for at a time.
const NUMBERS_TOGETHER: usize = 256;

/// Each row takes the place of a chosen one with the right chance: one walk, `count` rows held.
async fn sample(run: &Run, mut invocation: Invocation) -> Outcome<Value> {
    if let Value::Grouped(_) = invocation.call.arguments[0].value {
        return group::each(run, invocation).await;
    }
    let receiver = invocation.call.arguments[0].value.clone();
    invocation.call.arguments[0].value = crate::eval::loaded(run, receiver).await?;
    let sequence = invocation.sequence(0)?;
    let count = invocation.integer(1)?;
    let Ok(count) = usize::try_from(count) else {
        return Err(Failure::logic(format!(
            "Number of items to sample must be non-negative, got `{count}`."
        )));
    };
    invocation.blame(0, sequence.check_finite())?;
    let mut chosen: Vec<Datum> = Vec::new();
    let (mut seen, mut numbers): (u64, Vec<u8>) = (0, Vec::new());
    let mut cursor = Cursor::open(run, &sequence, None)?;
    while let Some(row) = cursor.next(run).await? {
        seen += 1;
        if chosen.len() < count {
            chosen.push(row);
            check_array_size(chosen.len(), &run.limits)?;
            continue;
        }
        if numbers.len() < 8 {
            numbers = run.random(8 * NUMBERS_TOGETHER).await?;
        }
        let at = numbers.len() - 8;
        let place = below(eight(&numbers[at..]), seen);
        numbers.truncate(at);
        if let Some(slot) = chosen.get_mut(usize::try_from(place).unwrap_or(usize::MAX)) {
            *slot = row;
        }
    }
    Ok(match &sequence.table {
        Some(table) => Value::Sequence(Rc::new(Sequence::of_selected_rows(table.clone(), chosen))),
        None => Value::Datum(Datum::array(chosen)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_double_stays_within_its_bounds() {
        let bounds = [
            (-93.94757, -93.94757),
            (294.69148, 294.69148),
            (0.1, 0.1_f64.next_up()),
            (0.1_f64.next_up(), 0.1),
            (-f64::MAX, f64::MAX),
            (20.153, 10.5),
        ];
        for (low, high) in bounds {
            for step in 0..=10_000 {
                let number = within(low, high, unit(u64::MAX / 10_000 * step));
                let inside =
                    if low < high { low <= number && number < high } else { high < number && number <= low };
                assert!(inside || (low == high && number == low), "{number} between {low} and {high}");
            }
        }
    }
}

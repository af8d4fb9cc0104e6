//! What a template's variables may hold.
//!
//! The engine's fuel pays for instructions and bytes. It does not pay for what lists and maps hold when the same one is in
//! them many times over: `{% set x = [x, x] %}` forty times makes a value of 2^40 parts out of eighty instructions, and
//! comparing, printing or copying it visits each. So the compiled template is given instructions that count what a value
//! holds before it gets a name or is compared: no variable holds more than [`MOST`] values, and what a single expression
//! makes of variables grows with the length of the source.

use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters};

/// Most values in one, each counted as often as it is found.
const MOST: usize = 1 << 15;
/// How deep lists and maps may lie in each other.
const DEEPEST: usize = 64;
/// Values that a unit of fuel pays for.
const PER_FUEL: usize = 2;

/// Filters that no template calls by these names.
const HELD: &str = "__held";
const HELD_BY_NAMESPACE: &str = "__held_by_namespace";
/// An instruction that looks its filter up each time.
const NO_CACHE: u8 = !0;

/// Adds the filters that [`guarded`] calls, and counts what goes into or comes out of those that compare or repeat.
pub(crate) fn add_filters(environment: &mut Environment<'static>) {
    environment.add_filter(HELD, |state: &State<'_, '_>, value: Value| held(state, value, false));
    environment.add_filter(HELD_BY_NAMESPACE, |state: &State<'_, '_>, value: Value| {
        held(state, value, true)
    });
    // Of this engine and not of Jinja: lazy values that go through the same one again and again.
    environment.remove_filter("chain");
    environment.remove_filter("zip");
    environment.add_filter("unique", |state: &State<'_, '_>, value: Value, options: Kwargs| {
        filters::unique(state, held(state, value, false)?, options)
    });
    environment.add_filter("sort", |state: &State<'_, '_>, value: Value, options: Kwargs| {
        filters::sort(state, held(state, value, false)?, options)
    });
    environment.add_filter("min", |state: &State<'_, '_>, value: Value, options: Kwargs| {
        filters::min(state, held(state, value, false)?, options)
    });
    environment.add_filter("max", |state: &State<'_, '_>, value: Value, options: Kwargs| {
        filters::max(state, held(state, value, false)?, options)
    });
    environment.add_filter("dictsort", |state: &State<'_, '_>, value: Value, options: Kwargs| {
        filters::dictsort(&held(state, value, false)?, options)
    });
    environment.add_filter(
        "groupby",
        |state: &State<'_, '_>, value: Value, attribute: Option<&str>, options: Kwargs| {
            let groups = filters::groupby(held(state, value, false)?, attribute, options)?;
            held(state, groups, false)
        },
    );
    environment.add_filter(
        "batch",
        |state: &State<'_, '_>, value: Value, count: usize, fill: Option<Value>| {
            held(state, filters::batch(state, value, count, fill)?, false)
        },
    );
    environment.add_filter(
        "slice",
        |state: &State<'_, '_>, value: Value, count: usize, fill: Option<Value>| {
            held(state, filters::slice(state, value, count, fill)?, false)
        },
    );
}

/// The same instructions, with counting between them.
pub(crate) fn guarded<'s>(instructions: &Instructions<'s>) -> Instructions<'s> {
    let all: Vec<&Instruction<'s>> = (0..).map_while(|at| instructions.get(at)).collect();
    let added: Vec<Vec<Instruction<'s>>> = (0..all.len())
        .map(|at| before(all[at], at.checked_sub(1).map(|last| all[last])))
        .collect();
    // Where each instruction will be, beginning with what is added before it; jumps may lead behind the last.
    let mut places = vec![0];
    for added in &added {
        places.push(places[places.len() - 1] + added.len() as u32 + 1);
    }
    let to = |target: &u32| places[*target as usize];
    let mut out = Instructions::new(instructions.name(), instructions.source());
    for (at, (instruction, added)) in all.into_iter().zip(added).enumerate() {
        let moved = match instruction {
            Instruction::Iterate(target) => Instruction::Iterate(to(target)),
            Instruction::Jump(target) => Instruction::Jump(to(target)),
            Instruction::JumpIfFalse(target) => Instruction::JumpIfFalse(to(target)),
            Instruction::JumpIfFalseOrPop(target) => Instruction::JumpIfFalseOrPop(to(target)),
            Instruction::JumpIfTrueOrPop(target) => Instruction::JumpIfTrueOrPop(to(target)),
            Instruction::BuildMacro(name, target, flags) => Instruction::BuildMacro(name, to(target), *flags),
            other => other.clone(),
        };
        let line = instructions.get_line(at as u32).unwrap_or_default() as u16;
        for instruction in added.into_iter().chain([moved]) {
            match instructions.get_span(at as u32) {
                Some(span) => out.add_with_span(instruction, span),
                None => out.add_with_line(instruction, line),
            };
        }
    }
    out
}

/// What is to be done before an instruction that follows `last`. Whoever jumps here finds the same on the stack.
fn before<'s>(instruction: &Instruction<'s>, last: Option<&Instruction<'s>>) -> Vec<Instruction<'s>> {
    let count = |name| Instruction::ApplyFilter(name, Some(1), NO_CACHE);
    let mut added = Vec::new();
    // These repeat a value, and hash it.
    if matches!(last, Some(Instruction::Mul | Instruction::BuildMap(_))) {
        added.push(count(HELD));
    }
    match instruction {
        Instruction::StoreLocal(_)
        | Instruction::Eq
        | Instruction::Ne
        | Instruction::Gt
        | Instruction::Gte
        | Instruction::Lt
        | Instruction::Lte
        | Instruction::In
        | Instruction::CompareAndPreserve(_)
        | Instruction::PerformTest(_, Some(2), _)
        | Instruction::CallMethod(_, Some(2)) => added.push(count(HELD)),
        // The namespace lies above the value.
        Instruction::SetAttr(_) => added.extend([Instruction::Swap, count(HELD_BY_NAMESPACE), Instruction::Swap]),
        _ => {}
    }
    added
}

/// The value, if it holds no more than may be.
fn held(state: &State<'_, '_>, value: Value, by_namespace: bool) -> Result<Value, Error> {
    // A lazy list is made anew by whoever goes through it, and may be of another lazy list, and so on.
    let value = match value.kind() {
        ValueKind::Iterable => Value::from(value.try_iter()?.take(MOST).collect::<Vec<Value>>()),
        _ => value,
    };
    let mut left = MOST;
    let counted = count(&value, by_namespace, DEEPEST, &mut left);
    state.consume_fuel(((MOST - left) / PER_FUEL) as u64)?;
    counted.map(|()| value)
}

/// That a value does not hold more than may be.
pub(crate) fn check(value: &Value) -> Result<(), Error> {
    count(value, false, DEEPEST, &mut { MOST })
}

fn count(value: &Value, by_namespace: bool, depth: usize, left: &mut usize) -> Result<(), Error> {
    let too = |what: String| Err(Error::new(ErrorKind::InvalidOperation, what));
    *left = match left.checked_sub(1) {
        Some(left) => left,
        None => return too(format!("it makes a value of more than {MOST} parts")),
    };
    let kind = value.kind();
    if !matches!(kind, ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
        return Ok(());
    }
    if depth == 0 {
        return too(format!("it makes lists in lists, more than {DEEPEST} deep"));
    }
    // It is the one value that can come to hold itself.
    if by_namespace
        && value
            .as_object()
            .is_some_and(|it| it.type_name().ends_with("::Namespace"))
    {
        return too("it puts a namespace into a namespace".into());
    }
    for item in value.try_iter()? {
        count(&item, by_namespace, depth - 1, left)?;
        if kind == ValueKind::Map {
            count(&value.get_item(&item)?, by_namespace, depth - 1, left)?;
        }
    }
    Ok(())
}

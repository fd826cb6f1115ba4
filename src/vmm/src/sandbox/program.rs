//! From rules to a classic BPF program (`Documentation/userspace-api/seccomp_filter.rst`).
//!
//! The call's number is searched for in a balanced tree. When a filter is installed Linux runs it once for every number
//! there is, to learn which are allowed without a look at their arguments: that, and so installing, is several times
//! cheaper for a tree than for a list.
use libc::sock_filter;

/// One call: allowed if all conditions of any alternative hold.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) alternatives: Vec<Vec<Condition>>,
}

/// Argument `index`, masked, is `value`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condition {
    pub(super) index: u8,
    pub(super) mask: u64,
    pub(super) value: u64,
}

/// `linux/bpf_common.h`, `linux/filter.h`.
mod code {
    pub(super) const LOAD_WORD: u16 = 0x20;
    pub(super) const AND: u16 = 0x54;
    pub(super) const JUMP: u16 = 0x05;
    pub(super) const JUMP_EQUAL: u16 = 0x15;
    pub(super) const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
    pub(super) const RETURN: u16 = 0x06;
}

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;
const ALLOW: u32 = 0x7fff_0000;
const TRAP: u32 = 0x0003_0000;

const fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The program that allows `calls`, which are sorted by number, and raises SIGSYS for every other call.
pub(super) fn compile(calls: &[Call]) -> Vec<sock_filter> {
    let mut program = vec![
        statement(code::LOAD_WORD, ARCHITECTURE),
        branch(code::JUMP_EQUAL, X86_64, 1, 0),
        statement(code::RETURN, TRAP),
        statement(code::LOAD_WORD, NUMBER),
    ];
    program.extend(search(calls));
    program
}

/// A subtree that ends in a verdict. Conditional jumps reach 255 instructions only, so far ones go by an unconditional one.
fn search(calls: &[Call]) -> Vec<sock_filter> {
    match calls {
        [] => vec![statement(code::RETURN, TRAP)],
        [call] => {
            let mut code = vec![
                branch(code::JUMP_EQUAL, call.number, 1, 0),
                statement(code::RETURN, TRAP),
            ];
            code.extend(alternatives(call));
            code
        }
        _ => {
            let (low, high) = calls.split_at(calls.len() / 2);
            let low = search(low);
            let beyond = u32::try_from(low.len()).expect("a filter has a few hundred instructions");
            let mut code = vec![
                branch(code::JUMP_GREATER_OR_EQUAL, high[0].number, 0, 1),
                statement(code::JUMP, beyond),
            ];
            code.extend(low);
            code.extend(search(high));
            code
        }
    }
}

/// The verdict on a call by its arguments.
fn alternatives(call: &Call) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for conditions in &call.alternatives {
        code.extend(all_of(conditions));
    }
    // A call without alternatives has none whose conditions hold; one without conditions ended the list with "allow".
    code.push(statement(code::RETURN, TRAP));
    code
}

/// Allows if all conditions hold, else goes on behind.
fn all_of(conditions: &[Condition]) -> Vec<sock_filter> {
    let tests: Vec<_> = conditions
        .iter()
        .flat_map(|condition| halves(*condition))
        .collect();
    // From the last test to the first, each knows how much lies between it and what comes behind.
    let mut code = vec![statement(code::RETURN, ALLOW)];
    for test in tests.into_iter().rev() {
        let behind = u8::try_from(code.len()).expect("a rule has a few conditions");
        let mut longer = vec![statement(code::LOAD_WORD, test.offset)];
        if test.mask != u32::MAX {
            longer.push(statement(code::AND, test.mask));
        }
        longer.push(branch(code::JUMP_EQUAL, test.value, 0, behind));
        longer.extend(code);
        code = longer;
    }
    code
}

/// A test of 32 bits of `struct seccomp_data`.
struct Test {
    offset: u32,
    mask: u32,
    value: u32,
}

/// Arguments have 64 bits and BPF has 32: the halves that the mask leaves anything of.
fn halves(condition: Condition) -> impl Iterator<Item = Test> {
    let offset = ARGUMENTS + 8 * u32::from(condition.index);
    let half = |bits: u64, high: bool| {
        let [a, b, c, d, e, f, g, h] = bits.to_le_bytes();
        u32::from_le_bytes(if high { [e, f, g, h] } else { [a, b, c, d] })
    };
    [(offset, false), (offset + 4, true)]
        .into_iter()
        .map(move |(offset, high)| Test {
            offset,
            mask: half(condition.mask, high),
            value: half(condition.value, high),
        })
        .filter(|test| test.mask != 0)
}

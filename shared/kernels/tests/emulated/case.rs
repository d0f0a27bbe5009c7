//! Cases: a kernel, its arguments, and what must hold of its results whatever they are.

use bytemuck::{Pod, cast_slice};
use tessera_kernels::{Element, Kind, launch::Launch};

use crate::program::Program;

/// Runs a check for every kind of number.
macro_rules! for_each_kind {
    ($check:ident) => {{
        $check::<f32>();
        $check::<half::f16>();
        $check::<half::bf16>();
    }};
}
pub(crate) use for_each_kind;

/// In which order blocks, and threads that can go on, take their turns.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Ascending,
    Descending,
    Shuffled(u32),
}

impl Order {
    pub(crate) const SOME: [Self; 4] = [Self::Ascending, Self::Descending, Self::Shuffled(1), Self::Shuffled(2)];

    pub(crate) fn code(self) -> (u32, u32) {
        match self {
            Self::Ascending => (0, 0),
            Self::Descending => (1, 0),
            Self::Shuffled(seed) => (2, seed),
        }
    }
}

/// An argument of a kernel.
#[derive(Clone, Debug)]
pub(crate) enum Argument {
    Null,
    Memory {
        bytes: Vec<u8>,
        /// How far past a multiple of 16 it begins; 16 or more: so that it ends with the last byte that may be touched.
        misalignment: u32,
    },
    Number(u32),
    /// Memory that only addresses lead to: the kernel has no parameter for it.
    Elsewhere(Vec<u8>),
    /// Addresses in arguments in front of this: which, and the offset in bytes.
    Addresses(Vec<(u32, u64)>),
}

/// Memory that begins at a multiple of 16, as what a GPU's allocator gives does.
pub(crate) fn memory<T: Pod>(values: &[T]) -> Argument {
    Argument::Memory { bytes: cast_slice(values).to_vec(), misalignment: 0 }
}

/// Memory or, where there is none, a null pointer.
pub(crate) fn optional<T: Pod>(values: Option<&[T]>) -> Argument {
    values.map_or(Argument::Null, memory)
}

/// An extent.
pub(crate) fn number(value: usize) -> Argument {
    Argument::Number(value as u32)
}

/// A number of the kernel's own arithmetic.
pub(crate) fn real(value: f32) -> Argument {
    Argument::Number(value.to_bits())
}

impl Argument {
    /// The same memory elsewhere: `elements` past a multiple of 16 bytes, or at the very end where that is 16 or more.
    pub(crate) fn shifted<T>(self, elements: usize) -> Self {
        match self {
            Self::Memory { bytes, .. } => Self::Memory { bytes, misalignment: (elements * size_of::<T>()) as u32 },
            other => other,
        }
    }

    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Memory { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    pub(crate) fn write(&self, case: &mut Vec<u8>) {
        match self {
            Self::Null => case.push(0),
            Self::Memory { bytes, misalignment } => {
                case.push(1);
                case.extend(misalignment.to_ne_bytes());
                case.extend((bytes.len() as u64).to_ne_bytes());
                case.extend(bytes);
            }
            Self::Number(bits) => {
                case.push(2);
                case.extend(bits.to_ne_bytes());
            }
            Self::Elsewhere(bytes) => {
                case.push(4);
                case.extend((bytes.len() as u64).to_ne_bytes());
                case.extend(bytes);
            }
            Self::Addresses(addresses) => {
                case.push(3);
                case.extend((addresses.len() as u64).to_ne_bytes());
                for (argument, offset) in addresses {
                    case.extend(argument.to_ne_bytes());
                    case.extend(offset.to_ne_bytes());
                }
            }
        }
    }
}

/// Runs a kernel in several orders; returns what the arguments hold that it writes, `written`. Panics where it does
/// what it must not, where an order gives other bits than the first, and where another argument has changed.
pub(crate) fn run(program: &mut Program, launch: &Launch, arguments: &[Argument], written: &[usize]) -> Vec<Vec<u8>> {
    let mut first: Option<Vec<Vec<u8>>> = None;
    for order in Order::SOME {
        let results = program.run(launch, order, arguments).unwrap_or_else(|wrong| panic!("{wrong}\n{launch:?}"));
        match &first {
            Some(first) => assert!(*first == results, "{}: other bits in order {order:?}: {launch:?}", launch.function),
            None => first = Some(results),
        }
    }
    let memories = arguments.iter().enumerate().filter_map(|(index, argument)| Some((index, argument.bytes()?)));
    let mut outputs = Vec::new();
    for ((index, before), after) in memories.zip(first.expect("there are orders")) {
        if written.contains(&index) {
            outputs.push(after);
        } else {
            assert!(before == after, "{}: argument {index} has changed", launch.function);
        }
    }
    outputs
}

/// Numbers from bytes, however these are aligned.
pub(crate) fn numbers<T: Pod>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

/// How far two results may be apart.
#[derive(Clone, Copy)]
pub(crate) struct Tolerance {
    /// Units of the last place: one for each rounding, for sums may end on either side of the middle between two
    /// numbers.
    pub(crate) units: f32,
    /// The size of the terms of the sums, which lose something else of it in another order.
    pub(crate) terms: f32,
}

pub(crate) fn assert_close<T: Element>(found: &[T], expected: &[T], tolerance: Tolerance, what: &str) {
    let Tolerance { units, terms } = tolerance;
    assert_eq!(found.len(), expected.len(), "{what}");
    let unit = match T::KIND {
        Kind::F32 => f32::EPSILON,
        Kind::F16 => 1.0 / 1024.0,
        Kind::Bf16 => 1.0 / 128.0,
    };
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let (found, expected) = (found.to_f32(), expected.to_f32());
        let same = found == expected || found.is_nan() && expected.is_nan();
        let near = (found - expected).abs() <= units * unit * expected.abs() + 2e-6 * terms;
        assert!(same || near, "{what}: number {index} is {found}, not {expected}");
    }
}

/// Two rows of numbers are the same, bit for bit, but for which bits stand for what is no number.
pub(crate) fn assert_same<T: Element>(found: &[T], expected: &[T], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let both_nan = found.to_f32().is_nan() && expected.to_f32().is_nan();
        let same = bytemuck::bytes_of(found) == bytemuck::bytes_of(expected);
        assert!(same || both_nan, "{what}: number {index} is {found:?}, not {expected:?}");
    }
}

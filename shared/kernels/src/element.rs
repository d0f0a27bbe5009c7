//! The types that tensors are kept in.

use bytemuck::Pod;
use half::{bf16, f16};

/// A number as tensors hold it. Sums are f32 whatever it is.
pub trait Element: Pod + Send + Sync + PartialEq + std::fmt::Debug {
    /// Which one it is.
    const KIND: Kind;

    /// Returns the number, exactly.
    fn to_f32(self) -> f32;

    /// Returns the nearest number of this type, of two that are as near the even one.
    fn from_f32(value: f32) -> Self;
}

/// The name of an [`Element`] where it is not known before the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 32 bits.
    F32,
    /// IEEE's half: 11 bits of precision.
    F16,
    /// The upper half of an f32: 8 bits of precision.
    Bf16,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// The end of a kernel's name.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The size of a number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl Element for f32 {
    const KIND: Kind = Kind::F32;

    fn to_f32(self) -> f32 {
        self
    }

    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for f16 {
    const KIND: Kind = Kind::F16;

    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Element for bf16 {
    const KIND: Kind = Kind::Bf16;

    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

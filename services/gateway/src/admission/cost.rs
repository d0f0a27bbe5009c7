//! What a request takes of the two pools.

/// What a tile is worth beside a token where both come together in one number: the positions that a usual tower makes of it.
const TILE: usize = 576;

/// What a request takes of the pools at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Tiles that may have to be encoded.
    pub(crate) tiles: usize,
    /// Tokens of the prompt and of all answers.
    pub(crate) tokens: usize,
}

/// Pools that cannot take more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lacking {
    pub(super) vision: bool,
    pub(super) language: bool,
}

impl Cost {
    /// Both together, for shares that are to be fair.
    pub(super) fn work(self) -> f64 {
        self.tokens.saturating_add(self.tiles.saturating_mul(TILE)) as f64
    }

    /// Whether it needs one of these pools.
    pub(super) fn needs(self, lacking: Lacking) -> bool {
        lacking.vision && self.tiles > 0 || lacking.language && self.tokens > 0
    }

    pub(super) fn plus(self, other: Self) -> Self {
        let (tiles, tokens) = (self.tiles.saturating_add(other.tiles), self.tokens.saturating_add(other.tokens));
        Self { tiles, tokens }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        let (tiles, tokens) = (self.tiles.saturating_sub(other.tiles), self.tokens.saturating_sub(other.tokens));
        Self { tiles, tokens }
    }
}

impl Lacking {
    pub(super) fn is_any(self) -> bool {
        self.vision || self.language
    }

    pub(super) fn is_both(self) -> bool {
        self.vision && self.language
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self { vision: self.vision || other.vision, language: self.language || other.language }
    }
}

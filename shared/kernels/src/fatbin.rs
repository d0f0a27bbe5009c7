//! The compiled kernels.

/// Returns the kernels, compiled for the GPUs that the build was told of, as the CUDA driver loads them; nothing where
/// the program was built without the feature `cuda`, or with a stand-in for nvcc that compiles nothing.
#[cfg(feature = "cuda")]
pub fn fatbin() -> Option<&'static [u8]> {
    const FATBIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));
    Some(FATBIN).filter(|bytes| !bytes.is_empty())
}

/// Returns the kernels, compiled for the GPUs that the build was told of, as the CUDA driver loads them; nothing, for
/// the program was built without the feature `cuda`.
#[cfg(not(feature = "cuda"))]
pub const fn fatbin() -> Option<&'static [u8]> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "cuda")]
    #[test]
    fn what_is_compiled_is_what_the_driver_loads() {
        let magic = 0xba55_ed50u32.to_le_bytes();
        assert!(
            fatbin().is_none_or(|bytes| bytes.starts_with(&magic)),
            "a fat binary, or nothing by a stand-in for nvcc"
        );
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_the_feature_nothing_is_compiled() {
        assert!(fatbin().is_none());
    }
}

//! What is stored under an image key.

use tessera_anyres::ImageSize;
use tessera_tensor::HostTensor;

/// A payload that is not what its header says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArtifactError {
    /// Bytes were changed on the way.
    #[error("payload of {bytes} bytes does not match its checksum")]
    Checksum {
        /// Length of the payload.
        bytes: usize,
    },
}

/// The features of one image, with the image's size and a checksum of the payload.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// Size of the image: with the encoder's geometry it gives the layout of the rows.
    pub image_size: ImageSize,
    /// Features, packed: `[feature rows, channels]`.
    pub features: HostTensor,
    /// BLAKE3 of the payload.
    pub checksum: [u8; 32],
}

impl Artifact {
    /// Seals features that were just computed.
    pub fn seal(image_size: ImageSize, features: HostTensor) -> Self {
        let checksum = *blake3::hash(features.data()).as_bytes();
        Self { image_size, features, checksum }
    }

    /// Opens features that came from elsewhere.
    ///
    /// # Errors
    /// [`ArtifactError::Checksum`] when the payload is not the one that was sealed.
    pub fn open(image_size: ImageSize, features: HostTensor, checksum: [u8; 32]) -> Result<Self, ArtifactError> {
        let sealed = Self::seal(image_size, features);
        if sealed.checksum != checksum {
            return Err(ArtifactError::Checksum { bytes: sealed.bytes() });
        }
        Ok(sealed)
    }

    /// Length of the payload in bytes.
    pub fn bytes(&self) -> usize {
        self.features.data().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_payload_is_refused() {
        let size = ImageSize { height: 3, width: 4 };
        let artifact = Artifact::seal(size, HostTensor::from_f32(vec![1, 2], vec![1.0, 2.0]).unwrap());
        let other = HostTensor::from_f32(vec![1, 2], vec![1.0, 2.5]).unwrap();
        assert_eq!(Artifact::open(size, other, artifact.checksum).unwrap_err(), ArtifactError::Checksum { bytes: 8 });
        assert!(Artifact::open(size, artifact.features.clone(), artifact.checksum).is_ok());
    }
}

//! What travels between the pools.

use tessera_anyres::ImageSize;
use tessera_tensor::HostTensor;

use crate::{Artifact, ArtifactError, Rows};

/// Rows of one image as they are sent: what an [`Artifact`] holds, without what the store knows of it.
#[derive(Clone, Debug)]
pub struct ImageFeatures {
    /// Size of the image: with the encoder's geometry it gives the layout of the rows.
    pub image_size: ImageSize,
    /// `[rows, columns]`.
    pub rows: HostTensor,
    /// BLAKE3 of the rows' bytes.
    pub checksum: [u8; 32],
}

impl ImageFeatures {
    /// Computes the checksum of rows that are to be sent.
    pub fn seal(image_size: ImageSize, rows: HostTensor) -> Self {
        let checksum = *blake3::hash(rows.data()).as_bytes();
        Self { image_size, rows, checksum }
    }

    /// Opens rows that came from elsewhere.
    ///
    /// # Errors
    /// [`ArtifactError::Checksum`] when they are not the ones that were sealed.
    pub fn open(image_size: ImageSize, rows: HostTensor, checksum: [u8; 32]) -> Result<Self, ArtifactError> {
        let sealed = Self::seal(image_size, rows);
        if sealed.checksum != checksum {
            return Err(ArtifactError::Checksum { bytes: sealed.bytes() });
        }
        Ok(sealed)
    }

    /// Length of the rows in bytes.
    pub fn bytes(&self) -> usize {
        self.rows.data().len()
    }
}

impl Artifact {
    /// What is sent of it, where nothing has to be computed for that; nothing where the rows are kept in another form.
    pub fn plain(&self) -> Option<ImageFeatures> {
        match &self.rows {
            // The payload of plain rows is their bytes, so its checksum is theirs.
            Rows::Plain(rows) => {
                Some(ImageFeatures { image_size: self.image_size, rows: rows.clone(), checksum: self.checksum })
            }
            Rows::Eight(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EncoderFingerprint, Origin, Provenance, TenantId};

    const SIZE: ImageSize = ImageSize { height: 3, width: 4 };

    fn rows() -> HostTensor {
        HostTensor::from_f32(vec![1, 2], vec![1.0, 2.0]).unwrap()
    }

    #[test]
    fn rows_that_were_changed_are_refused() {
        let sealed = ImageFeatures::seal(SIZE, rows());
        let other = HostTensor::from_f32(vec![1, 2], vec![1.0, 2.5]).unwrap();
        let error = ImageFeatures::open(SIZE, other, sealed.checksum).unwrap_err();
        assert_eq!(error, ArtifactError::Checksum { bytes: 8 });
        assert!(ImageFeatures::open(SIZE, rows(), sealed.checksum).is_ok());
    }

    #[test]
    fn plain_rows_are_sent_with_the_checksum_that_they_are_kept_with() {
        let (encoder, tenant) = (EncoderFingerprint::of(&[b"e"]), TenantId::of(b""));
        let artifact = Artifact::seal(SIZE, rows(), Provenance::now(encoder, tenant, Origin::Encoded, SIZE));
        let sent = artifact.plain().unwrap();
        assert!(ImageFeatures::open(SIZE, sent.rows, sent.checksum).is_ok());
        assert!(artifact.quantize().plain().is_none());
    }
}

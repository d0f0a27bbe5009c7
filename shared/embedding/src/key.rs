//! Identity: which features an image file has under one encoder and one tenant.

use std::fmt;
use std::str::FromStr;

use tessera_anyres::{ImageSize, Shape};
use tessera_tensor::HostTensor;

/// Context of the key derivation: changing it changes every key.
const IMAGE_CONTEXT: &str = "tessera 2026 image key v1";
/// Context of the keys of images that are given the shape of all others before they are encoded: none of them is ever the
/// key of an image in its own.
const CONSTANT_SHAPE_CONTEXT: &str = "tessera 2026 constant-shape image key v1";
/// Context of the keys of uploaded features: none of them is ever the key of an image.
const UPLOAD_CONTEXT: &str = "tessera 2026 upload key v1";
/// Context of the encoder fingerprint.
const ENCODER_CONTEXT: &str = "tessera 2026 encoder fingerprint v1";
/// Context of the decoder fingerprint.
const DECODER_CONTEXT: &str = "tessera 2026 decoder fingerprint v1";
/// Context of the tenant's name in what is stored.
const TENANT_CONTEXT: &str = "tessera 2026 tenant v1";

/// A key or fingerprint of the wrong length.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a key has 32 bytes, this one has {0}")]
pub struct KeyError(pub usize);

/// A text that is no key.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum HexError {
    /// It is too long or too short.
    #[error("a key has 64 hexadecimal digits, this one has {0} characters")]
    Length(usize),
    /// Some of it is no digit.
    #[error("{character:?} at position {position} is no hexadecimal digit")]
    Digit {
        /// What is there.
        character: char,
        /// Where, from 0.
        position: usize,
    },
}

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The 32 bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = KeyError;

            fn try_from(bytes: &[u8]) -> Result<Self, KeyError> {
                bytes.try_into().map(Self).map_err(|_| KeyError(bytes.len()))
            }
        }

        /// Reads the 64 hexadecimal digits that people see, in either case.
        impl FromStr for $name {
            type Err = HexError;

            fn from_str(text: &str) -> Result<Self, HexError> {
                digits(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

digest!(
    /// Identity of the features of one image: 256 bits, compared whole, computed by a server.
    ImageKey
);
digest!(
    /// Identity of everything that turns a file into features: weights, configuration, preprocessing, arithmetic.
    EncoderFingerprint
);
digest!(
    /// Identity of everything that turns a prompt into scores: weights, configuration, arithmetic.
    DecoderFingerprint
);
digest!(
    /// Whose an artifact is, without the secret that a tenant's keys are made with.
    TenantId
);

impl ImageKey {
    /// Returns the key of an image file: keyed BLAKE3 over length-prefixed tenant salt, fingerprint and bytes.
    pub fn of(tenant_salt: &[u8], encoder: &EncoderFingerprint, image: &[u8]) -> Self {
        Self(derive(IMAGE_CONTEXT, &[tenant_salt, encoder.as_bytes(), image]))
    }

    /// Returns the key of an image file that is given this shape before it is encoded: the same fields, and a context for
    /// each shape.
    pub fn of_shape(shape: Shape, tenant_salt: &[u8], encoder: &EncoderFingerprint, image: &[u8]) -> Self {
        match shape {
            Shape::Own => Self::of(tenant_salt, encoder, image),
            Shape::Constant => Self(derive(CONSTANT_SHAPE_CONTEXT, &[tenant_salt, encoder.as_bytes(), image])),
        }
    }

    /// Returns the key of features that somebody uploads for an image of this size, to be read as this encoder's:
    /// keyed BLAKE3 over everything that a reader is told about them, in a context of its own.
    pub fn of_upload(
        tenant_salt: &[u8],
        encoder: &EncoderFingerprint,
        image_size: ImageSize,
        features: &HostTensor,
    ) -> Self {
        let size = [image_size.height.to_le_bytes(), image_size.width.to_le_bytes()].concat();
        let shape: Vec<u8> = features.shape().iter().flat_map(|&side| (side as u64).to_le_bytes()).collect();
        let dtype = features.dtype().name().as_bytes();
        Self(derive(UPLOAD_CONTEXT, &[tenant_salt, encoder.as_bytes(), &size, dtype, &shape, features.data()]))
    }
}

impl EncoderFingerprint {
    /// Returns the fingerprint of an encoder from everything that decides its features, in a fixed order.
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(derive(ENCODER_CONTEXT, parts))
    }
}

impl DecoderFingerprint {
    /// Returns the fingerprint of a decoder from everything that decides its scores, in a fixed order.
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(derive(DECODER_CONTEXT, parts))
    }
}

impl TenantId {
    /// Returns the identity of the tenant with this salt. The salt cannot be computed from it.
    pub fn of(salt: &[u8]) -> Self {
        Self(derive(TENANT_CONTEXT, &[salt]))
    }
}

/// BLAKE3 in key-derivation mode over length-prefixed fields, so that no two lists of fields run into one another.
fn derive(context: &str, fields: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for field in fields {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    *hasher.finalize().as_bytes()
}

/// The bytes that 64 hexadecimal digits stand for.
pub(crate) fn digits(text: &str) -> Result<[u8; 32], HexError> {
    let length = text.chars().count();
    if length != 64 {
        return Err(HexError::Length(length));
    }
    let mut bytes = [0; 32];
    for (position, character) in text.chars().enumerate() {
        let Some(digit) = character.to_digit(16) else { return Err(HexError::Digit { character, position }) };
        // A digit is below 16.
        bytes[position / 2] = bytes[position / 2] << 4 | u8::try_from(digit).unwrap_or_default();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn features(bytes: &[u8]) -> HostTensor {
        HostTensor::from_f32(vec![1, bytes.len()], bytes.iter().copied().map(f32::from).collect()).unwrap()
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        assert_eq!(ImageKey::try_from(&[0u8; 31][..]), Err(KeyError(31)));
    }

    #[test]
    fn what_is_no_handle_is_refused_by_name() {
        let key = ImageKey::of(b"", &EncoderFingerprint::of(&[]), b"image");
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(key.to_string().to_uppercase().parse(), Ok(key));
        assert_eq!("".parse::<ImageKey>(), Err(HexError::Length(0)));
        assert_eq!("ä".repeat(63).parse::<ImageKey>(), Err(HexError::Length(63)));
        let wrong = format!("{}x{}", "a".repeat(10), "0".repeat(53));
        let error = wrong.parse::<ImageKey>().unwrap_err();
        assert_eq!(error.to_string(), "'x' at position 10 is no hexadecimal digit");
    }

    #[test]
    fn equal_fields_of_another_kind_are_another_identity() {
        let encoder = EncoderFingerprint::of(&[b"salt"]);
        let tenant = TenantId::of(b"salt");
        assert_ne!(encoder.as_bytes(), tenant.as_bytes());
        assert_ne!(tenant.as_bytes(), TenantId::of(b"pepper").as_bytes());
        let inner = EncoderFingerprint::try_from(&[7u8; 32][..]).unwrap();
        let fingerprint = EncoderFingerprint::of(&[b"", inner.as_bytes(), b""]);
        assert_ne!(ImageKey::of(b"", &inner, b"").as_bytes(), fingerprint.as_bytes());
    }

    #[test]
    fn everything_that_is_told_about_an_upload_is_in_its_key() {
        let (encoder, size) = (EncoderFingerprint::of(&[]), ImageSize::new(2, 3));
        let tensor = features(&[1, 2, 3, 4]);
        let key = |salt: &[u8], encoder, size, tensor: &HostTensor| ImageKey::of_upload(salt, encoder, size, tensor);
        let reshaped = HostTensor::from_f32(vec![2, 2], tensor.to_f32()).unwrap();
        let all = [
            key(b"", &encoder, size, &tensor),
            key(b"a", &encoder, size, &tensor),
            key(b"", &EncoderFingerprint::of(&[b"b"]), size, &tensor),
            key(b"", &encoder, ImageSize::new(3, 2), &tensor),
            key(b"", &encoder, size, &reshaped),
            key(b"", &encoder, size, &features(&[1, 2, 3, 5])),
            key(
                b"",
                &encoder,
                size,
                &HostTensor::new(tessera_tensor::DType::F16, vec![1, 8], tensor.into_data()).unwrap(),
            ),
        ];
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }

    proptest! {
        /// Moving bytes between the fields, or changing any of them, changes the key.
        #[test]
        fn different_inputs_never_meet(
            salt in prop::collection::vec(any::<u8>(), 0..20),
            image in prop::collection::vec(any::<u8>(), 1..60),
            seeds in any::<[u8; 2]>(),
            cut in 1usize..60,
        ) {
            let encoder = EncoderFingerprint::of(&[&seeds[..1]]);
            let key = ImageKey::of(&salt, &encoder, &image);
            prop_assert_eq!(key, ImageKey::of(&salt, &encoder, &image));

            let cut = cut.min(image.len());
            let moved = [&salt[..], &image[..cut]].concat();
            prop_assert_ne!(key, ImageKey::of(&moved, &encoder, &image[cut..]));
            let shaped = |shape| ImageKey::of_shape(shape, &salt, &encoder, &image);
            prop_assert_eq!(key, shaped(Shape::Own));
            prop_assert_ne!(key, shaped(Shape::Constant));
            prop_assert_eq!(shaped(Shape::Constant), shaped(Shape::Constant));
            let longer = [&image[..], &[0]].concat();
            prop_assert_ne!(key, ImageKey::of(&salt, &encoder, &longer));
            if seeds[0] != seeds[1] {
                prop_assert_ne!(key, ImageKey::of(&salt, &EncoderFingerprint::of(&[&seeds[1..]]), &image));
            }
        }

        /// No upload has the key of an image, whatever bytes the image's file holds: those of the payload, or all that is
        /// hashed for the upload.
        #[test]
        fn an_upload_never_stands_for_an_image(
            salt in prop::collection::vec(any::<u8>(), 0..20),
            payload in prop::collection::vec(any::<u8>(), 1..40),
            (height, width) in any::<(u32, u32)>(),
        ) {
            let encoder = EncoderFingerprint::of(&[&salt]);
            let tensor = features(&payload);
            let key = ImageKey::of_upload(&salt, &encoder, ImageSize::new(height, width), &tensor);
            prop_assert_ne!(key, ImageKey::of(&salt, &encoder, tensor.data()));
            let size = [height.to_le_bytes(), width.to_le_bytes()].concat();
            let fields: [&[u8]; 4] = [&size, b"f32", &[1u64.to_le_bytes(), (payload.len() as u64).to_le_bytes()].concat(), tensor.data()];
            let mut whole = Vec::new();
            for field in fields {
                whole.extend((field.len() as u64).to_le_bytes());
                whole.extend(field);
            }
            prop_assert_ne!(key, ImageKey::of(&salt, &encoder, &whole));
            prop_assert_ne!(key, ImageKey::of(&salt, &encoder, &whole[8..]));
            let tenant = TenantId::of(&salt);
            prop_assert_ne!(key.as_bytes(), tenant.as_bytes());
            prop_assert_ne!(tenant, TenantId::of(&[&payload[..], &salt].concat()));
        }

        /// Whatever text comes in, it is read or refused.
        #[test]
        fn any_text_is_a_key_or_an_error(text in "\\PC{60,68}") {
            if let Ok(key) = text.parse::<ImageKey>() {
                prop_assert_eq!(key.to_string(), text.to_lowercase());
            }
        }
    }
}

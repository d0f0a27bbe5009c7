//! The file that holds an artifact: plain safetensors, described in `FORMAT.md`.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Serialize;
use tessera_anyres::ImageSize;
use tessera_tensor::{DType, HostTensor};

use super::seconds;
use crate::key::digits;
use crate::{Artifact, ArtifactError, EightBit, ImageKey, Origin, Provenance, Rows};

/// No header is longer, in bytes: what this program writes has some eight hundred. Whoever reads this many bytes of a file
/// has its header.
pub const HEADER_LIMIT: usize = 16 << 10;

/// Bytes that tell the length of the header.
const LENGTH_BYTES: usize = 8;
/// Headers are filled up with spaces to a multiple of this, so that numbers lie where processors read them well.
const ALIGNMENT: usize = 8;
const FORMAT: &str = "tessera.artifact";
const VERSION: &str = "1";
const REPRESENTATION: &str = "features";

/// What a stored artifact says of itself, known without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactHeader {
    /// Whose features.
    pub key: ImageKey,
    /// Size of the image.
    pub image_size: ImageSize,
    /// Rows and channels.
    pub shape: (usize, usize),
    /// The element type that the rows were computed in.
    pub dtype: DType,
    /// Whether the payload holds eight bits a number, or that type.
    pub eight_bit: bool,
    /// Where they come from.
    pub provenance: Provenance,
    /// BLAKE3 of the payload.
    pub checksum: [u8; 32],
}

/// A file as its parts, so that nothing is copied to write it.
#[derive(Clone, Debug)]
pub struct ArtifactFile {
    /// One after the other they are the file.
    pub parts: [Bytes; 3],
}

impl Artifact {
    /// Returns what this artifact, as the one of `key`, says of itself.
    pub fn header(&self, key: &ImageKey) -> ArtifactHeader {
        ArtifactHeader {
            key: *key,
            image_size: self.image_size,
            shape: self.rows.shape(),
            dtype: self.rows.dtype(),
            eight_bit: matches!(self.rows, Rows::Eight(_)),
            provenance: self.provenance,
            checksum: self.checksum,
        }
    }

    /// Returns the file that holds this artifact as the one of `key`.
    pub fn to_file(&self, key: &ImageKey) -> ArtifactFile {
        // Scales first: they are the wider numbers.
        let [values, scales] = self.rows.payload();
        ArtifactFile { parts: [self.header(key).to_bytes(), scales, values] }
    }

    /// Returns the bytes of [`Artifact::to_file`]: equal ones for equal artifacts.
    pub fn to_bytes(&self, key: &ImageKey) -> Bytes {
        let file = self.to_file(key);
        file.parts.concat().into()
    }

    /// Reads a file and checks everything that it says; the rows share its bytes.
    ///
    /// # Errors
    /// [`ArtifactError`] for anything that is not the unchanged artifact of `key`.
    pub fn from_bytes(bytes: &Bytes, key: &ImageKey) -> Result<Self, ArtifactError> {
        let (header, start) = ArtifactHeader::read_with_length(bytes, bytes.len() as u64)?;
        if header.key != *key {
            return Err(ArtifactError::Key { found: header.key, expected: *key });
        }
        let payload = bytes.slice(start..);
        let (rows, channels) = header.shape;
        let rows: Rows = if header.eight_bit {
            // The header's own offsets were checked to be these.
            let scales = payload.slice(..rows * 4);
            EightBit::new(header.dtype, header.shape, payload.slice(rows * 4..), scales)?.into()
        } else {
            let tensor = HostTensor::new(header.dtype, vec![rows, channels], payload);
            tensor.map_err(|error| ArtifactError::Shape(error.to_string()))?.into()
        };
        Self::open(header.image_size, rows, header.provenance, header.checksum)
    }
}

impl ArtifactFile {
    /// Length of the file in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no file is without a header")]
    pub fn len(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }
}

impl ArtifactHeader {
    /// Reads the header of a file of `length` bytes from its beginning: all of it, or the first
    /// [`HEADER_LIMIT`] bytes. Everything but the payload is checked.
    ///
    /// # Errors
    /// [`ArtifactError`] for what is no artifact, and for one whose header was changed.
    pub fn read(beginning: &[u8], length: u64) -> Result<Self, ArtifactError> {
        Self::read_with_length(beginning, length).map(|(header, _)| header)
    }

    /// Length of the payload in bytes.
    pub fn payload_bytes(&self) -> u64 {
        self.tensors().last().map_or(0, |(_, info)| info.data_offsets.1 as u64)
    }

    /// The header and where the payload starts.
    fn read_with_length(beginning: &[u8], length: u64) -> Result<(Self, usize), ArtifactError> {
        let (json, start) = header_of(beginning)?;
        let tensors: Metadata = serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
        if length != start as u64 + tensors.data_len() as u64 {
            return Err(malformed(format!("{length} bytes are not those that the header announces")));
        }
        let empty = HashMap::new();
        let fields = Fields(tensors.metadata().as_ref().unwrap_or(&empty));
        let header = fields.read()?;
        header.fits(&tensors)?;
        Ok((header, start))
    }

    /// Checks that the tensors in the file are those that the header's own fields tell of.
    fn fits(&self, found: &Metadata) -> Result<(), ArtifactError> {
        let expected = self.tensors();
        let same = |(name, tensor): &(&str, TensorInfo)| {
            found.info(name).is_some_and(|info| {
                info.dtype == tensor.dtype && info.shape == tensor.shape && info.data_offsets == tensor.data_offsets
            })
        };
        if found.tensors().len() == expected.len() && expected.iter().all(same) {
            return Ok(());
        }
        Err(malformed("its tensors are not those that its metadata tells of"))
    }

    /// The tensors of the file, in the order of their bytes.
    fn tensors(&self) -> Vec<(&'static str, TensorInfo)> {
        let (rows, channels) = self.shape;
        // The numbers of an artifact in memory do not overflow; those of a hostile header then do not fit.
        let numbers = rows.saturating_mul(channels);
        let values = |dtype, start: usize, bytes: usize| TensorInfo {
            dtype,
            shape: vec![rows, channels],
            data_offsets: (start, start.saturating_add(bytes)),
        };
        if self.eight_bit {
            let bytes = rows.saturating_mul(4);
            let scales = TensorInfo { dtype: Dtype::F32, shape: vec![rows], data_offsets: (0, bytes) };
            return vec![("scales", scales), ("features", values(Dtype::I8, bytes, numbers))];
        }
        let dtype = match self.dtype {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
        };
        vec![("features", values(dtype, 0, numbers.saturating_mul(self.dtype.size_bytes())))]
    }

    /// The beginning of a file, up to the payload.
    fn to_bytes(&self) -> Bytes {
        let mut metadata = self.metadata();
        metadata.insert("seal", seal(metadata.iter().map(|(name, value)| (*name, value.as_str()))));
        let mut tensors = self.tensors().into_iter();
        let json = Json {
            metadata,
            scales: if self.eight_bit { tensors.next().map(|(_, info)| info) } else { None },
            features: tensors.next().map(|(_, info)| info),
        };
        let json = serde_json::to_vec(&json).expect("a map of texts and numbers is JSON");
        let length = json.len().next_multiple_of(ALIGNMENT);
        let mut bytes = Vec::with_capacity(LENGTH_BYTES + length);
        bytes.extend((length as u64).to_le_bytes());
        bytes.extend(json);
        bytes.resize(LENGTH_BYTES + length, b' ');
        bytes.into()
    }

    /// Every field but the seal.
    fn metadata(&self) -> BTreeMap<&'static str, String> {
        let Provenance { encoder, tenant, origin, created, grid } = self.provenance;
        BTreeMap::from([
            ("format", FORMAT.to_owned()),
            ("version", VERSION.to_owned()),
            ("representation", REPRESENTATION.to_owned()),
            ("key", self.key.to_string()),
            ("image_height", self.image_size.height.to_string()),
            ("image_width", self.image_size.width.to_string()),
            ("grid_height", grid.height.to_string()),
            ("grid_width", grid.width.to_string()),
            ("rows", self.shape.0.to_string()),
            ("channels", self.shape.1.to_string()),
            ("dtype", self.dtype.to_string()),
            ("encoding", if self.eight_bit { "eight_bit" } else { "plain" }.to_owned()),
            ("encoder", encoder.to_string()),
            ("tenant", tenant.to_string()),
            ("origin", origin.name().to_owned()),
            ("created", seconds(created).to_string()),
            ("checksum", blake3::Hash::from_bytes(self.checksum).to_hex().to_string()),
        ])
    }
}

/// The JSON of a header, in the order in which it is written.
#[derive(Serialize)]
struct Json {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scales: Option<TensorInfo>,
    features: Option<TensorInfo>,
}

/// The metadata of a file that somebody wrote.
struct Fields<'a>(&'a HashMap<String, String>);

impl Fields<'_> {
    fn read(&self) -> Result<ArtifactHeader, ArtifactError> {
        self.expect("format", FORMAT)?;
        let version = self.get("version")?;
        if version != VERSION {
            return Err(ArtifactError::Version(version.to_owned()));
        }
        let all: BTreeMap<&str, &str> = self.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if self.get("seal")? != seal(all.into_iter().filter(|(name, _)| *name != "seal")) {
            return Err(ArtifactError::Seal);
        }
        self.expect("representation", REPRESENTATION)?;
        let size = |height, width| Ok(ImageSize { height: self.parse(height)?, width: self.parse(width)? });
        Ok(ArtifactHeader {
            key: self.parse("key")?,
            image_size: size("image_height", "image_width")?,
            shape: (self.parse("rows")?, self.parse("channels")?),
            dtype: self.parse("dtype")?,
            eight_bit: self.one_of("encoding", &[("plain", false), ("eight_bit", true)])?,
            provenance: Provenance {
                encoder: self.parse("encoder")?,
                tenant: self.parse("tenant")?,
                origin: self.one_of("origin", &[Origin::Encoded, Origin::Uploaded].map(|o| (o.name(), o)))?,
                created: self.time("created")?,
                grid: size("grid_height", "grid_width")?,
            },
            checksum: digits(self.get("checksum")?).map_err(|error| malformed(format!("checksum: {error}")))?,
        })
    }

    fn get(&self, name: &str) -> Result<&str, ArtifactError> {
        self.0.get(name).map(String::as_str).ok_or_else(|| malformed(format!("it has no field {name}")))
    }

    fn expect(&self, name: &str, value: &str) -> Result<(), ArtifactError> {
        self.one_of(name, &[(value, ())])
    }

    fn one_of<T: Copy>(&self, name: &str, values: &[(&str, T)]) -> Result<T, ArtifactError> {
        let found = self.get(name)?;
        let value = values.iter().find(|(value, _)| *value == found).map(|(_, value)| *value);
        value.ok_or_else(|| malformed(format!("{name} is {found:?}")))
    }

    fn parse<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<T, ArtifactError> {
        self.get(name)?.parse().map_err(|error| malformed(format!("{name}: {error}")))
    }

    fn time(&self, name: &str) -> Result<SystemTime, ArtifactError> {
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(self.parse(name)?));
        time.ok_or_else(|| malformed(format!("{name} is beyond all time")))
    }
}

/// Cuts the JSON of a header out of the beginning of a file; also tells where the payload starts.
fn header_of(beginning: &[u8]) -> Result<(&[u8], usize), ArtifactError> {
    let short = || malformed(format!("{} bytes are no header", beginning.len()));
    let (length, rest) = beginning.split_first_chunk::<LENGTH_BYTES>().ok_or_else(short)?;
    let length = u64::from_le_bytes(*length);
    let within = usize::try_from(length).ok().filter(|length| *length <= HEADER_LIMIT - LENGTH_BYTES);
    let length = within.ok_or_else(|| malformed(format!("a header of {length} bytes is too long")))?;
    Ok((rest.get(..length).ok_or_else(short)?, LENGTH_BYTES + length))
}

/// BLAKE3 of the fields of a header, sorted by name, a line each.
fn seal<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, value) in fields {
        hasher.update(name.as_bytes()).update(b"=").update(value.as_bytes()).update(b"\n");
    }
    hasher.finalize().to_hex().to_string()
}

fn malformed(why: impl Into<String>) -> ArtifactError {
    ArtifactError::Format(why.into())
}

#[cfg(test)]
mod tests;

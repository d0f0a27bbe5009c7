//! Runs our kernels on the GPU for the tests of `shared/kernels`, in place of the emulator that runs them on the CPU: cases come on
//! standard input, in the form that `shared/kernels/tests/emulated` writes, and what their memory holds afterwards goes to standard
//! output.

#[cfg(feature = "cuda")]
mod gpu;

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};

use tessera_tensor::Devices;

/// A kernel, how it is launched, and what it is given.
struct Case {
    function: String,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    arguments: Vec<Argument>,
}

/// As in `shared/kernels/tests/emulated/case.rs`.
#[derive(Debug, PartialEq)]
enum Argument {
    Null,
    Memory {
        bytes: Vec<u8>,
        misalignment: u32,
    },
    Number(u32),
    /// Memory without a parameter of its own.
    Elsewhere(Vec<u8>),
    /// Addresses in arguments in front of this: which, and the offset in bytes.
    Addresses(Vec<(u32, u64)>),
}

/// Runs cases until there are no more.
pub(crate) fn serve(device: &Devices) -> Result<(), String> {
    let gpu = gpu(device)?;
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    while let Some(case) = Case::read(&mut input).map_err(|error| error.to_string())? {
        for bytes in gpu.run(&case).map_err(|error| format!("{case}: {error}"))? {
            output.write_all(&bytes).map_err(|error| error.to_string())?;
        }
        // The end of a result that may be no bytes at all.
        output.write_all(&[1]).map_err(|error| error.to_string())?;
        output.flush().map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// What runs a case; returns what each argument that is memory holds then.
trait Runner {
    fn run(&self, case: &Case) -> Result<Vec<Vec<u8>>, String>;
}

#[cfg(feature = "cuda")]
fn gpu(device: &Devices) -> Result<Box<dyn Runner>, String> {
    let Devices::Cuda(gpus) = device else { return Err("kernels run on a GPU: name one with --device cuda:0".into()) };
    Ok(Box::new(gpu::Gpu::new(gpus[0])?))
}

#[cfg(not(feature = "cuda"))]
fn gpu(device: &Devices) -> Result<Box<dyn Runner>, String> {
    Err(format!(
        "this program is built without CUDA and cannot run kernels on {device}, build it with deploy/cuda/build.sh --proof"
    ))
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, grid, block, shared_bytes, arguments } = self;
        let count = arguments.len();
        write!(f, "{function} with {count} arguments, grid {grid:?}, block {block:?}, {shared_bytes} bytes shared")
    }
}

impl Case {
    /// Reads the next case; there is none where the input ends.
    fn read(input: &mut impl Read) -> io::Result<Option<Self>> {
        let length = match word(input) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            length => length?,
        };
        let function = String::from_utf8(bytes(input, u64::from(length))?);
        let function = function.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        let grid = [word(input)?, word(input)?, word(input)?];
        let block = [word(input)?, word(input)?, word(input)?];
        let shared_bytes = word(input)?;
        // The order of threads and its seed: a GPU has its own.
        let _ = (word(input)?, word(input)?);
        let count = word(input)?;
        let arguments = (0..count).map(|_| Argument::read(input)).collect::<io::Result<_>>()?;
        Ok(Some(Self { function, grid, block, shared_bytes, arguments }))
    }
}

impl Argument {
    fn read(input: &mut impl Read) -> io::Result<Self> {
        let mut kind = [0];
        input.read_exact(&mut kind)?;
        Ok(match kind[0] {
            0 => Self::Null,
            1 => {
                let misalignment = word(input)?;
                let length = double_word(input)?;
                Self::Memory { bytes: bytes(input, length)?, misalignment }
            }
            2 => Self::Number(word(input)?),
            3 => {
                let count = double_word(input)?;
                let address = |_| Ok((word(input)?, double_word(input)?));
                Self::Addresses((0..count).map(address).collect::<io::Result<_>>()?)
            }
            4 => {
                let length = double_word(input)?;
                Self::Elsewhere(bytes(input, length)?)
            }
            other => return Err(io::Error::new(ErrorKind::InvalidData, format!("no argument is of kind {other}"))),
        })
    }
}

fn word(input: &mut impl Read) -> io::Result<u32> {
    let mut word = [0; 4];
    input.read_exact(&mut word)?;
    Ok(u32::from_ne_bytes(word))
}

fn double_word(input: &mut impl Read) -> io::Result<u64> {
    let mut word = [0; 8];
    input.read_exact(&mut word)?;
    Ok(u64::from_ne_bytes(word))
}

/// So many bytes. What is not there yet takes no memory.
fn bytes(input: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_case_is_read_as_it_is_written() {
        // Here, for the bench is compiled with `cfg(test)` and without tests.
        use super::{Argument, Case};

        let mut written: Vec<u8> = 3u32.to_ne_bytes().to_vec();
        written.extend(b"add");
        let words = [1u32, 2, 3, 4, 5, 6, 7, 2, 99, 5];
        written.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        written.push(0);
        written.push(1);
        written.extend(16u32.to_ne_bytes());
        written.extend(2u64.to_ne_bytes());
        written.extend([8, 9]);
        written.push(2);
        written.extend(7u32.to_ne_bytes());
        written.push(4);
        written.extend(1u64.to_ne_bytes());
        written.push(5);
        written.push(3);
        written.extend(1u64.to_ne_bytes());
        written.extend(3u32.to_ne_bytes());
        written.extend(64u64.to_ne_bytes());
        let mut input = written.as_slice();
        let case = Case::read(&mut input).unwrap().unwrap();
        assert_eq!(
            (case.function.as_str(), case.grid, case.block, case.shared_bytes),
            ("add", [1, 2, 3], [4, 5, 6], 7)
        );
        let expected = [
            Argument::Null,
            Argument::Memory { bytes: vec![8, 9], misalignment: 16 },
            Argument::Number(7),
            Argument::Elsewhere(vec![5]),
            Argument::Addresses(vec![(3, 64)]),
        ];
        assert_eq!(case.arguments, expected);
        assert!(Case::read(&mut input).unwrap().is_none());
        for end in 1..written.len() {
            // The length of the name is not whole yet, which is an end like any other.
            let cut = Case::read(&mut &written[..end]);
            assert!(if end < 4 { cut.unwrap().is_none() } else { cut.is_err() }, "{end}");
        }
    }
}

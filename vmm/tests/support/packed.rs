//! Compressed kernels for tests.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// An EFI zboot header of 64 bytes (Linux drivers/firmware/efi/libstub/zboot-header.S), the
/// payload, and the rest of the EFI program.
pub fn zboot(compression: &str, payload: &[u8]) -> Vec<u8> {
    let mut file = b"MZ\0\0zimg".to_vec();
    file.extend(64_u32.to_le_bytes());
    file.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
    file.extend([0; 8]);
    file.extend(compression.as_bytes());
    file.resize(0x38, 0);
    file.extend(b"\xcd\x23\x82\x81\x40\0\0\0");
    file.extend(payload);
    file.extend(b"the code that unpacks");
    file
}

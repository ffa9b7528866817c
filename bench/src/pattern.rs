//! Bytes that encode their position, so that each can be verified when it is read back.

/// Bytes of a block, the unit of the random tests.
pub const BLOCK: usize = 4096;

/// Blocks of the disk.
pub const BLOCKS: u64 = 16384;

/// The step function of SplitMix64.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Returns the bytes of `block` after its `generation`-th write. Generation 0 is the initial
/// content.
pub fn block(block: u64, generation: u8) -> impl Iterator<Item = [u8; 8]> {
    let first = mix(block << 8 | u64::from(generation));
    (0..BLOCK as u64 / 8).map(move |word| first.wrapping_add(word << 32 | word).to_le_bytes())
}

/// Fills `bytes`, a whole number of blocks, with consecutive blocks starting at `first`.
pub fn fill(bytes: &mut [u8], first: u64, generation: u8) {
    for (bytes, number) in bytes.chunks_exact_mut(BLOCK).zip(first..) {
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(block(number, generation)) {
            bytes.copy_from_slice(&word);
        }
    }
}

/// Whether `bytes` equals one block as written by [`fill`].
pub fn is_block(bytes: &[u8], number: u64, generation: u8) -> bool {
    bytes.len() == BLOCK
        && bytes
            .chunks_exact(8)
            .zip(block(number, generation))
            .all(|(bytes, word)| bytes == word)
}

/// Returns all blocks of the disk in an order that depends on `seed`.
pub fn shuffled(seed: u64) -> Vec<u64> {
    let mut blocks: Vec<u64> = (0..BLOCKS).collect();
    blocks.sort_by_key(|block| mix(seed << 32 ^ block));
    blocks
}

/// Returns what the console tests print: numbered lines of `length` bytes, including the newline.
pub fn lines(count: usize, length: usize) -> Vec<u8> {
    let line = |number: usize| {
        let text = format!("{number:06} ");
        let rest = (b'a'..=b'z').cycle().skip(number % 26);
        let text = text.into_bytes().into_iter().chain(rest);
        text.take(length - 1).chain([b'\n']).collect::<Vec<u8>>()
    };
    (0..count).flat_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filled_block_is_recognised_and_no_other() {
        let mut bytes = vec![0; 2 * BLOCK];
        fill(&mut bytes, 7, 1);
        assert!(is_block(&bytes[..BLOCK], 7, 1));
        assert!(is_block(&bytes[BLOCK..], 8, 1));
        assert!(!is_block(&bytes[..BLOCK], 8, 1));
        assert!(!is_block(&bytes[..BLOCK], 7, 0));
        assert!(!is_block(&bytes[..BLOCK - 8], 7, 1));
        bytes[BLOCK - 1] ^= 1;
        assert!(!is_block(&bytes[..BLOCK], 7, 1));
    }

    #[test]
    fn a_shuffle_has_every_block_once_and_follows_its_seed() {
        let order = shuffled(1);
        assert_ne!(order, shuffled(2));
        assert_eq!(order, shuffled(1));
        let mut sorted = order;
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..BLOCKS));
    }

    #[test]
    fn lines_have_their_length() {
        let text = lines(3, 64);
        assert_eq!(text.len(), 3 * 64);
        assert!(
            text.split_inclusive(|&byte| byte == b'\n')
                .all(|line| line.len() == 64)
        );
        assert!(text.starts_with(b"000000 "));
    }
}

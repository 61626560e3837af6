//! Writes audio that needs no encoder.

/// A WAV file of 16 bits: samples of all channels, frame by frame, so many frames a second.
pub(super) fn wav(rate: u32, channels: u16, samples: &[i16]) -> Vec<u8> {
    let bytes = samples.len() as u32 * 2;
    let each = channels * 2;
    let header = [
        &b"RIFF"[..],
        &(36 + bytes).to_le_bytes(),
        b"WAVEfmt ",
        &16_u32.to_le_bytes(),
        &1_u16.to_le_bytes(),
        &channels.to_le_bytes(),
        &rate.to_le_bytes(),
        &(rate * u32::from(each)).to_le_bytes(),
        &each.to_le_bytes(),
        &16_u16.to_le_bytes(),
        b"data",
        &bytes.to_le_bytes(),
    ];
    header.concat().into_iter().chain(samples.iter().flat_map(|sample| sample.to_le_bytes())).collect()
}

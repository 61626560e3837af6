//! Files of audio as samples: decoded by symphonia, mixed down to one channel, and brought to one rate by rubato.

use std::io::{Cursor, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;

use crate::model::Cancel;
use crate::model::thread::panic_text;

/// Samples of a second, as models hear them.
pub(super) const RATE: usize = 16_000;
/// Longest audio: its samples are held until they are features, and take 230 MB an hour.
pub(super) const MOST_SECONDS: usize = 4 * 60 * 60;
/// Samples that are resampled at a time.
const AT_ONCE: usize = 1 << 12;
/// Rates that files have; others are a mistake in a header.
const RATES: std::ops::RangeInclusive<usize> = 1_000..=768_000;
/// What can be read.
const KINDS: &str =
    "WAV, FLAC, MP3, Ogg Vorbis, AAC and ALAC (also in MP4), AIFF and Matroska with one of these are read";

/// Why there are no samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unheard {
    /// What is wrong with the file; it goes behind the field's name.
    Invalid(String),
    /// Nobody wants them any more.
    Cancelled,
}

/// A file that is being read.
struct File {
    reader: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
}

/// The samples of a file, from -1 to 1, `RATE` of them each second.
pub(super) fn samples(file: Bytes, cancel: &Cancel) -> Result<Vec<f32>, Unheard> {
    // a header that lies makes decoders count wrong, and those that check their sums crash then
    let decoded = catch_unwind(AssertUnwindSafe(|| decode(file, cancel)));
    decoded.unwrap_or_else(|panic| {
        Err(Unheard::Invalid(format!("is damaged: decoding it ends with \"{}\"", panic_text(panic.as_ref()))))
    })
}

fn decode(file: Bytes, cancel: &Cancel) -> Result<Vec<f32>, Unheard> {
    let mut file = File::open(file)?;
    let mut heard: Option<Resampler> = None;
    let mut interleaved = Vec::new();
    let mut damaged = 0_usize;
    loop {
        if cancel.is_cancelled() {
            return Err(Unheard::Cancelled);
        }
        let packet = match file.reader.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            // what is there of a file that is cut short is heard, as by every player
            Err(Error::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(Unheard::Invalid(format!("cannot be decoded: {error}"))),
        };
        if packet.track_id != file.track {
            continue;
        }
        let buffer = match file.decoder.decode(&packet) {
            Ok(buffer) => buffer,
            Err(Error::DecodeError(why)) => {
                damaged += 1;
                tracing::debug!(why, "a packet of audio is damaged");
                continue;
            }
            Err(error) => return Err(Unheard::Invalid(format!("cannot be decoded: {error}"))),
        };
        let (rate, channels) = (buffer.spec().rate() as usize, buffer.num_planes());
        if buffer.frames() == 0 || channels == 0 {
            continue;
        }
        buffer.copy_to_vec_interleaved::<f32>(&mut interleaved);
        let to = match &mut heard {
            Some(to) => to,
            None => heard.insert(Resampler::new(rate)?),
        };
        if to.rate != rate {
            return Err(Unheard::Invalid(format!("changes its rate from {} to {rate} Hz half-way", to.rate)));
        }
        to.push(interleaved.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32))?;
    }
    if damaged > 0 {
        tracing::warn!(damaged, "packets of audio are damaged and are left out");
    }
    match heard.map(Resampler::finish).transpose()? {
        Some(samples) if !samples.is_empty() => Ok(samples),
        _ if damaged > 0 => Err(Unheard::Invalid("cannot be decoded: every packet is damaged".into())),
        _ => Err(Unheard::Invalid("has no sound in it: not one sample".into())),
    }
}

impl File {
    fn open(file: Bytes) -> Result<Self, Unheard> {
        let stream = MediaSourceStream::new(Box::new(Cursor::new(file)), MediaSourceStreamOptions::default());
        let reader = symphonia::default::get_probe()
            .probe(&Hint::new(), stream, FormatOptions::default(), MetadataOptions::default())
            .map_err(|_| Unheard::Invalid(format!("is no audio of a kind that is known; {KINDS}")))?;
        let audio = reader.default_track(TrackType::Audio).and_then(|track| Some((track.id, audio(track)?)));
        let Some((track, parameters)) = audio else {
            return Err(Unheard::Invalid(format!("has no track of audio; {KINDS}")));
        };
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(parameters, &AudioDecoderOptions::default())
            .map_err(|error| Unheard::Invalid(format!("is encoded in a way that is not known ({error}); {KINDS}")))?;
        Ok(Self { reader, decoder, track })
    }
}

fn audio(track: &symphonia::core::formats::Track) -> Option<&AudioCodecParameters> {
    track.codec_params.as_ref()?.audio()
}

/// One channel, on its way to `RATE`.
struct Resampler {
    /// Of what comes in.
    rate: usize,
    /// None where that is the wanted one.
    inner: Option<Fft<f32>>,
    /// What came and is not resampled yet.
    coming: Vec<f32>,
    /// Samples that came in all.
    came: usize,
    made: Vec<f32>,
}

impl Resampler {
    fn new(rate: usize) -> Result<Self, Unheard> {
        if !RATES.contains(&rate) {
            return Err(Unheard::Invalid(format!("has {rate} samples a second, which no audio has")));
        }
        let inner = if rate == RATE {
            None
        } else {
            let made = Fft::new(rate, RATE, AT_ONCE, 1, FixedSync::Input);
            Some(made.map_err(|error| Unheard::Invalid(format!("cannot be resampled from {rate} Hz: {error}")))?)
        };
        Ok(Self { rate, inner, coming: Vec::new(), came: 0, made: Vec::new() })
    }

    fn push(&mut self, samples: impl Iterator<Item = f32>) -> Result<(), Unheard> {
        let before = self.coming.len();
        // a float that is none would make all of the features none
        self.coming.extend(samples.map(|sample| if sample.is_finite() { sample } else { 0.0 }));
        self.came += self.coming.len() - before;
        if self.came > MOST_SECONDS * self.rate {
            let hours = MOST_SECONDS / 3600;
            return Err(Unheard::Invalid(format!("is longer than {hours} hours; send it in parts")));
        }
        self.work_off()
    }

    /// Resamples what there is enough of.
    fn work_off(&mut self) -> Result<(), Unheard> {
        let Some(inner) = &mut self.inner else {
            self.made.append(&mut self.coming);
            return Ok(());
        };
        let mut from = 0;
        loop {
            let needs = inner.input_frames_next();
            let Some(part) = self.coming.get(from..from + needs) else { break };
            self.made.extend(resample(inner, part).map_err(Unheard::Invalid)?);
            from += needs;
        }
        self.coming.drain(..from);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<f32>, Unheard> {
        let Some(delay) = self.inner.as_ref().map(rubato::Resampler::output_delay) else { return Ok(self.made) };
        let wanted = (self.came as u128 * RATE as u128).div_ceil(self.rate as u128) as usize;
        while self.made.len() < delay + wanted {
            self.coming.resize(self.coming.len() + AT_ONCE, 0.0);
            self.work_off()?;
        }
        self.made.truncate(delay + wanted);
        self.made.drain(..delay);
        Ok(self.made)
    }
}

fn resample(inner: &mut Fft<f32>, part: &[f32]) -> Result<Vec<f32>, String> {
    let input = InterleavedSlice::new(part, 1, part.len()).map_err(|error| error.to_string())?;
    let made = inner.process(&input, None).map_err(|error| format!("cannot be resampled: {error}"))?;
    Ok(made.take_data())
}

#[cfg(test)]
mod tests {
    use super::super::wav::wav;
    use super::*;

    /// A tone of so many Hz, a third of the loudest, with silence in every second channel.
    fn tone(hertz: f64, rate: u32, channels: u16, seconds: f64) -> Vec<i16> {
        let at = |n: usize| (hertz * std::f64::consts::TAU * n as f64 / f64::from(rate)).sin() * 10_922.0;
        let frames = (seconds * f64::from(rate)) as usize;
        (0..frames).flat_map(|n| (0..channels).map(move |of| if of % 2 == 0 { at(n) as i16 } else { 0 })).collect()
    }

    fn read(file: Vec<u8>) -> Result<Vec<f32>, Unheard> {
        samples(file.into(), &Cancel::default())
    }

    #[test]
    fn samples_at_the_wanted_rate_are_kept_as_they_are() {
        let known = [0, 1, -1, 16_384, -32_768, 32_767];
        let wanted: Vec<f32> = known.iter().map(|sample| f32::from(*sample) / 32_768.0).collect();
        assert_eq!(read(wav(16_000, 1, &known)), Ok(wanted));
        let both = read(wav(16_000, 2, &[16_384, 0, 0, -16_384])).unwrap();
        assert_eq!(both, [0.25, -0.25], "channels are mixed");
    }

    #[test]
    fn a_tone_is_the_same_tone_at_another_rate_and_at_the_same_time() {
        for (rate, channels) in [(8_000, 1), (11_025, 2), (22_050, 1), (44_100, 2), (48_000, 1)] {
            let found = read(wav(rate, channels, &tone(440.0, rate, channels, 1.3))).unwrap();
            assert_eq!(found.len(), (1.3_f64 * 16_000.0).ceil() as usize, "{rate}");
            let known: Vec<f64> = tone(440.0, 16_000, 1, 1.3).iter().map(|s| f64::from(*s) / 32_768.0).collect();
            let loud = 1.0 / f64::from(channels);
            // where it begins and ends it rings
            let far = (800..found.len() - 800).map(|n| (f64::from(found[n]) - known[n] * loud).abs());
            let far = far.fold(0.0, f64::max);
            // a sample early or late: the delay of a resampler is no whole number of samples
            let step = 440.0 * std::f64::consts::TAU / 16_000.0 / 3.0;
            assert!(far < 1.1 * step * loud, "{rate}: {far}");
        }
    }

    #[test]
    fn what_cannot_be_heard_is_told() {
        let whole = wav(16_000, 1, &[1; 1000]);
        for (file, wanted) in [
            (Vec::new(), "no audio of a kind"),
            (b"hello, this is a text and no audio at all".to_vec(), "WAV, FLAC, MP3"),
            (wav(16_000, 1, &[]), "no"),
            (wav(7, 1, &[1; 100]), "7 samples a second"),
            (whole[..30].to_vec(), "no audio of a kind"),
        ] {
            let Err(Unheard::Invalid(error)) = read(file) else { panic!("{wanted} is heard") };
            assert!(error.contains(wanted), "{error}");
        }
        assert_eq!(read(whole[..whole.len() - 500].to_vec()).unwrap().len(), 750, "what is there is heard");
        let cancel = Cancel::default();
        cancel.cancel();
        assert_eq!(samples(whole.into(), &cancel), Err(Unheard::Cancelled));
    }
}

//! Pictures that jobs bring along, and the files that are made of those computed.

use std::io::Cursor;

use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::imageops::FilterType;
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage,
};

use crate::model::inline;

/// Longest side of a picture that a job brings, in pixels.
const MAX_SIDE: u32 = 8192;
/// Most memory that decoding one may take: 8 bits of red, green, blue and alpha of 4096 × 4096 pixels, twice.
const MAX_DECODED: u64 = 128 << 20;
/// Most pixels, of which every one may be held by each job.
const MAX_PIXELS: u64 = 4096 * 4096;

/// A picture as it was sent. It is decoded where it is needed: many may wait.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Picture {
    file: Vec<u8>,
    /// In pixels.
    width: u32,
    height: u32,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} × {})", self.width, self.height)
    }
}

impl Picture {
    /// Reads base64, bare or as a data: URL, of PNG, JPEG or WebP. What it says goes behind "image: ".
    pub(super) fn read(text: &str) -> Result<Self, String> {
        Self::new(inline::read(text)?)
    }

    /// A file whose header is right, and within limits of size.
    pub(super) fn new(file: Vec<u8>) -> Result<Self, String> {
        let (width, height) = decoder(&file)?.dimensions();
        Ok(Self { file, width, height })
    }

    /// A white one.
    pub(super) fn blank(width: usize, height: usize) -> Result<Self, String> {
        let (width, height) = (width as u32, height as u32);
        let white = vec![u8::MAX; width as usize * height as usize * 3];
        let file = webp(&white, width, height).map_err(|error| error.to_string())?;
        Self::new(file.into())
    }

    /// Width and height in pixels.
    pub(super) fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Red, green, blue in 8 bits, in this size.
    fn pixels(&self, width: usize, height: usize) -> Result<RgbImage, String> {
        let (width, height) = (width as u32, height as u32);
        let pixels = DynamicImage::from_decoder(decoder(&self.file)?).map_err(|error| unreadable(&error))?.into_rgb8();
        if pixels.dimensions() == (width, height) {
            return Ok(pixels);
        }
        Ok(image::imageops::resize(&pixels, width, height, FilterType::Lanczos3))
    }

    /// The picture in this size, from −1 to 1: red, then green, then blue, each row by row.
    pub(super) fn planes(&self, width: usize, height: usize) -> Result<Vec<f32>, String> {
        let picture = self.pixels(width, height)?;
        let plane = |colour: usize| picture.pixels().map(move |pixel| f32::from(pixel.0[colour]) / 255.0 * 2.0 - 1.0);
        Ok((0..3).flat_map(plane).collect())
    }

    /// As a mask in this size, row by row: 1 where the picture is to be made anew, which is where it is bright (by
    /// ITU-R 601, as Pillow has it).
    pub(super) fn mask(&self, width: usize, height: usize) -> Result<Vec<f32>, String> {
        let bright = |pixel: &image::Rgb<u8>| {
            let [red, green, blue] = pixel.0.map(u32::from);
            let grey = (red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16;
            if grey as f32 / 255.0 < 0.5 { 0.0 } else { 1.0 }
        };
        Ok(self.pixels(width, height)?.pixels().map(bright).collect())
    }
}

/// Reads a file's header, within limits of size and memory.
fn decoder(file: &[u8]) -> Result<impl ImageDecoder + '_, String> {
    let mut reader = ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(|error| error.to_string())?;
    match reader.format() {
        Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP) => {}
        _ => return Err("is not a PNG, JPEG or WebP file".into()),
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| unreadable(&error))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!("has {width} × {height} pixels; at most {MAX_PIXELS} are read"));
    }
    if width == 0 || height == 0 {
        return Err("has no pixels".into());
    }
    Ok(decoder)
}

fn unreadable(error: &ImageError) -> String {
    format!("cannot be read: {error}")
}

/// The file that a picture is given as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Format {
    #[default]
    Png,
    /// With its quality, from 1 to 100.
    Jpeg(u8),
    /// Without loss.
    WebP,
}

impl Format {
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg(_) => "jpg",
            Self::WebP => "webp",
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg(_) => "image/jpeg",
            Self::WebP => "image/webp",
        }
    }
}

/// A JPEG file of 8-bit red, green, blue, row by row.
pub(super) fn jpeg(pixels: &[u8], width: u32, height: u32, quality: u8) -> Result<Bytes, ImageError> {
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, quality).write_image(pixels, width, height, ExtendedColorType::Rgb8)?;
    Ok(file.into())
}

/// A WebP file of 8-bit red, green, blue, row by row, without loss.
pub(super) fn webp(pixels: &[u8], width: u32, height: u32) -> Result<Bytes, ImageError> {
    let mut file = Vec::new();
    WebPEncoder::new_lossless(&mut file).write_image(pixels, width, height, ExtendedColorType::Rgb8)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn png(width: u32, height: u32, colour: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
        let picture = RgbImage::from_fn(width, height, |x, y| image::Rgb(colour(x, y)));
        let mut file = Vec::new();
        picture.write_to(&mut Cursor::new(&mut file), ImageFormat::Png).unwrap();
        file
    }

    #[test]
    fn a_picture_comes_in_every_way_that_is_said() {
        let file = png(3, 2, |x, y| [x as u8 * 100, y as u8 * 200, 7]);
        let bare = STANDARD.encode(&file);
        let picture = Picture::read(&bare).unwrap();
        assert_eq!(picture.size(), (3, 2));
        assert_eq!(Picture::read(&format!("data:image/png;base64,{bare}")), Ok(picture.clone()));
        let planes = picture.planes(3, 2).unwrap();
        assert_eq!(planes.len(), 18);
        assert_eq!(planes[..3], [-1.0, 100.0 / 255.0 * 2.0 - 1.0, 200.0 / 255.0 * 2.0 - 1.0]);
        assert_eq!((planes[6], planes[9]), (-1.0, 200.0 / 255.0 * 2.0 - 1.0), "green by rows");
        for file in [jpeg(&[9; 18], 3, 2, 90).unwrap(), webp(&[9; 18], 3, 2).unwrap()] {
            assert_eq!(Picture::new(file.to_vec()).unwrap().size(), (3, 2));
        }
    }

    #[test]
    fn a_mask_is_white_where_it_counts() {
        // pure green is bright, pure blue is dark
        let picture = Picture::new(png(2, 1, |x, _| if x == 0 { [0, 255, 0] } else { [0, 0, 255] })).unwrap();
        assert_eq!(picture.mask(2, 1).unwrap(), [1.0, 0.0]);
    }

    #[test]
    fn what_is_no_picture_is_told() {
        let cases = [
            ("https://example.com/a.png", "cannot be fetched"),
            ("data:image/png,abc", "not base64"),
            ("data:image/png;base64", "without a comma"),
            ("!!!", "is not base64"),
            ("R0lGODlhAQABAAAAACw=", "is not a PNG, JPEG or WebP file"),
        ];
        for (text, words) in cases {
            let error = Picture::read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        let file = png(8, 8, |_, _| [0; 3]);
        let half = Picture::new(file[..file.len() / 2].to_vec()).and_then(|picture| picture.planes(8, 8));
        let error = half.unwrap_err();
        assert!(error.starts_with("cannot be read"), "{error}");
    }

    /// A PNG that says it has so many pixels, and has none.
    fn bomb(width: u32, height: u32) -> Vec<u8> {
        let mut file = png(1, 1, |_, _| [0; 3]);
        file[16..20].copy_from_slice(&width.to_be_bytes());
        file[20..24].copy_from_slice(&height.to_be_bytes());
        let checksum = crc32(&file[12..29]);
        file[29..33].copy_from_slice(&checksum.to_be_bytes());
        file
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let byte = |crc: u32, byte: &u8| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
        };
        !bytes.iter().fold(u32::MAX, byte)
    }

    #[test]
    fn a_picture_that_would_fill_the_memory_is_refused_by_its_header() {
        assert!(Picture::new(bomb(1, 1)).is_ok());
        for (width, height) in [(10_000, 10_000), (8192, 8192), (1, u32::MAX >> 1), (100_000, 1)] {
            let error = Picture::new(bomb(width, height)).unwrap_err();
            assert!(error.contains("limit") || error.contains("at most") || error.contains("exceeds"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_picture_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0..4) {
            let start: &[u8] = match kind {
                0 => b"\x89PNG\r\n\x1a\n",
                1 => b"\xff\xd8\xff\xe0",
                2 => b"RIFF\xff\x00\x00\x00WEBPVP8L",
                _ => b"",
            };
            drop(Picture::new([start, &bytes].concat()).and_then(|picture| picture.planes(8, 8)));
        }

        #[test]
        fn a_damaged_picture_is_a_picture_or_an_error(at in 0_usize..120, to in any::<u8>(), kind in 0..3) {
            let pixels = [7; 48];
            let mut file = match kind {
                0 => png(4, 4, |x, y| [x as u8, y as u8, 0]),
                1 => jpeg(&pixels, 4, 4, 80).unwrap().to_vec(),
                _ => webp(&pixels, 4, 4).unwrap().to_vec(),
            };
            let at = at % file.len();
            file[at] = to;
            drop(Picture::new(file).and_then(|picture| picture.mask(4, 4)));
        }
    }
}

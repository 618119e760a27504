//! An RGB picture in memory, and the few things that are drawn on it.

use std::path::Path;

use crate::atomic;
use crate::error::{Error, Result};

use super::font;

/// Red, green, blue; sRGB.
pub type Rgb = [u8; 3];

/// Okabe and Ito's palette, distinguishable with colour-blind eyes (yellow left out: too pale on
/// white).
pub const SERIES_COLOURS: [Rgb; 7] = [
    [0, 114, 178],
    [213, 94, 0],
    [0, 158, 115],
    [204, 121, 167],
    [86, 180, 233],
    [230, 159, 0],
    [90, 90, 90],
];

/// A picture; pixel (0, 0) is at the top left.
#[derive(Clone, Debug, PartialEq)]
pub struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<Rgb>,
}

impl Canvas {
    /// A picture of one colour.
    pub fn new(width: usize, height: usize, colour: Rgb) -> Self {
        Self { width, height, pixels: vec![colour; width * height] }
    }

    /// Width and height in pixels.
    pub fn size(&self) -> [usize; 2] {
        [self.width, self.height]
    }

    /// The colour of a pixel, if it lies in the picture.
    pub fn get(&self, x: usize, y: usize) -> Option<Rgb> {
        (x < self.width).then(|| self.pixels.get(y * self.width + x).copied()).flatten()
    }

    /// Lays a colour over a pixel; `alpha` in 0..=1. What lies outside of the picture is ignored.
    pub fn blend(&mut self, x: isize, y: isize, colour: Rgb, alpha: f32) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if x >= self.width {
            return;
        }
        if let Some(pixel) = self.pixels.get_mut(y * self.width + x) {
            for (old, new) in pixel.iter_mut().zip(colour) {
                let mixed = f32::from(*old) + (f32::from(new) - f32::from(*old)) * alpha;
                *old = mixed.round().clamp(0.0, 255.0) as u8;
            }
        }
    }

    /// Fills a rectangle.
    pub fn rect(&mut self, [x, y]: [isize; 2], [w, h]: [usize; 2], colour: Rgb) {
        for row in y..y + h as isize {
            for col in x..x + w as isize {
                self.blend(col, row, colour, 1.0);
            }
        }
    }

    /// Draws text with the top left corner of a capital at (x, y), `scale` picture pixels per font
    /// pixel.
    pub fn text(&mut self, [x, y]: [isize; 2], scale: usize, colour: Rgb, text: &str) {
        let [w, h] = [font::GLYPH[0], font::GLYPH[1] + font::DESCENT].map(|n| n as isize);
        let scale = scale.max(1) as isize;
        for (i, c) in text.chars().enumerate() {
            let left = x + i as isize * font::ADVANCE as isize * scale;
            for row in 0..h * scale {
                for col in 0..w * scale {
                    if smooth_pixel(c, col, row, scale) {
                        self.blend(left + col, y + row, colour, 1.0);
                    }
                }
            }
        }
    }

    /// Text with a dark rim, legible on any picture.
    pub fn text_on_image(&mut self, [x, y]: [isize; 2], scale: usize, colour: Rgb, text: &str) {
        for (dx, dy) in [(-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1)] {
            self.text([x + dx, y + dy], scale, [0; 3], text);
        }
        self.text([x, y], scale, colour, text);
    }

    /// Width of a text in pixels.
    pub fn text_width(text: &str, scale: usize) -> usize {
        let n = text.chars().count();
        (n * font::ADVANCE).saturating_sub(font::ADVANCE - font::GLYPH[0]) * scale
    }

    /// The picture as a PNG file in memory (8 bits per channel, sRGB). The same picture gives the
    /// same bytes.
    pub fn png(&self) -> Result<Vec<u8>> {
        let failed = |e: png::EncodingError| Error::Config(format!("PNG: {e}"));
        let side = |n: usize| {
            u32::try_from(n).map_err(|_| Error::Config(format!("PNG: {n} pixels are too many")))
        };
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(self.pixels.as_flattened()).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(out)
    }

    /// Writes the picture as a PNG file, atomically.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        atomic::write_bytes(path, &self.png()?).map(|_| ())
    }
}

/// Enlarged glyphs at an even scale have their diagonals rounded (the Scale2x rule): a corner takes
/// the colour of its two outer neighbours where they agree and the opposite ones do not.
fn smooth_pixel(c: char, col: isize, row: isize, scale: isize) -> bool {
    let (x, y) = (col / scale, row / scale);
    let here = font::pixel(c, x, y);
    if scale % 2 == 1 {
        return here;
    }
    let side = |at: isize| if at % scale < scale / 2 { -1 } else { 1 };
    let (dx, dy) = (side(col), side(row));
    let (beside, opposite) = (font::pixel(c, x + dx, y), font::pixel(c, x - dx, y));
    let (above, below) = (font::pixel(c, x, y + dy), font::pixel(c, x, y - dy));
    if beside == above && beside != below && above != opposite { beside } else { here }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn png_reads_back() {
        let mut canvas = Canvas::new(7, 3, [1, 2, 3]);
        canvas.rect([-1, 1], [3, 1], [250, 0, 9]);
        canvas.blend(6, 2, [255, 255, 255], 0.5);
        canvas.blend(7, 0, [9; 3], 1.0);
        canvas.blend(0, 3, [9; 3], 1.0);
        let png = canvas.png().unwrap();
        assert_eq!(png, canvas.png().unwrap());
        let mut reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (7, 3, png::ColorType::Rgb));
        let at = |x: usize, y: usize| [0, 1, 2].map(|c| pixels[(y * 7 + x) * 3 + c]);
        assert_eq!((at(0, 1), at(1, 1), at(2, 1)), ([250, 0, 9], [250, 0, 9], [1, 2, 3]));
        assert_eq!((at(6, 2), at(0, 0)), ([128, 129, 129], [1, 2, 3]));
        assert!(Canvas::new(0, 0, [0; 3]).png().is_err());
    }

    #[test]
    fn text_takes_the_room_it_says() {
        for scale in 1..4 {
            let mut canvas = Canvas::new(60, 40, [0; 3]);
            canvas.text([2, 3], scale, [255; 3], "HH");
            let width = Canvas::text_width("HH", scale);
            let lit = |x, y| canvas.get(x, y) == Some([255; 3]);
            assert!(lit(2, 3) && lit(2 + width - 1, 3 + 7 * scale - 1));
            assert!(!lit(2 + width, 3) && !lit(2, 3 + 7 * scale) && !lit(1, 3) && !lit(2, 2));
        }
        assert_eq!(Canvas::text_width("", 2), 0);
    }
}

//! Fronts of two objectives.

/// The area under a front of two objectives that are shares, of the unit square.
pub fn covered(mut front: Vec<[f64; 2]>) -> f64 {
    front.sort_by(|a, b| b[0].total_cmp(&a[0]));
    let (mut area, mut height) = (0.0, 0.0);
    for [x, y] in front {
        area += x * f64::max(y - height, 0.0);
        height = f64::max(height, y);
    }
    area
}

//! Against the `nifti` crate, an independent implementation, where that crate is right: plain
//! NIfTI-1 files with `vox_offset` 352 and finite scaling.

use glmae::data::nifti::{Stored, write_volume};
use glmae::data::{ReadOptions, Volume, read_volume};
use glmae::rng::{Purpose, Rng};
use nifti::volume::RandomAccessNiftiVolume;
use nifti::{InMemNiftiObject, NiftiObject, ReaderOptions};

use super::shared_data;

fn by_crate(path: &std::path::Path) -> InMemNiftiObject {
    ReaderOptions::new().read_file(path).unwrap()
}

fn assert_equal(volume: &Volume, other: &InMemNiftiObject, name: &str) {
    let [nd, nh, nw] = volume.dims;
    let mut ours = volume.data.iter();
    for d in 0..nd {
        for h in 0..nh {
            for w in 0..nw {
                let at = [d as u16, h as u16, w as u16, 0];
                let coords = &at[..other.volume().dim().len().min(4)];
                let theirs = other.volume().get_f64(coords).unwrap() as f32;
                assert_eq!(*ours.next().unwrap(), theirs, "{name} at {at:?}");
            }
        }
    }
}

use nifti::NiftiVolume;

#[test]
fn reads_what_the_crate_reads() {
    let Some(shared) = shared_data("comparison with the nifti crate") else { return };
    for name in [
        "hippocampus/imagesTr/hippocampus_001.nii.gz",
        "mri/abdomen/abdomen_mr.nii.gz",
        "ct/spleen_2_ct.nii.gz",
        "odd/nibabel_anatomical.nii",
        "odd/niftirs_27_float64.nii",
        "odd/niftirs_27_int64.nii",
        "odd/niftirs_27_uint16.nii",
    ] {
        let path = shared.join(name);
        assert_equal(&read_volume(&path, &ReadOptions::default()).unwrap(), &by_crate(&path), name);
    }
}

#[test]
fn the_crate_reads_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(9, Purpose::Test, 0, 0, 0);
    let dims = [4, 5, 6];
    let affine =
        [[0.0, 0.0, 2.0, -7.0], [-1.5, 0.0, 0.0, 3.0], [0.0, 1.25, 0.0, 0.5], [0., 0., 0., 1.]];
    for (name, stored) in
        [("f.nii", Stored::F32), ("i.nii.gz", Stored::I16), ("u.nii.gz", Stored::U8)]
    {
        let data = (0..120).map(|_| rng.below(256) as f32).collect();
        let volume = Volume::new(data, 1, dims, affine, 4).unwrap();
        let path = folder.path().join(name);
        write_volume(&path, &volume, stored).unwrap();
        let read = by_crate(&path);
        assert_equal(&volume, &read, name);
        let header = read.header();
        assert_eq!((header.sform_code, header.qform_code), (4, 4));
        assert_eq!(header.srow_x.map(f64::from), affine[0]);
        assert_eq!(header.srow_y.map(f64::from), affine[1]);
        assert_eq!(header.srow_z.map(f64::from), affine[2]);
        assert_eq!(header.pixdim[1..4], [1.5, 1.25, 2.0]);
    }
}

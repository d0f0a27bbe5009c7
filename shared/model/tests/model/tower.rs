//! The tower as GPUs run it, on the CPU, and the tiles of several images in one pass.

use tessera_anyres::ImageSize;
use tessera_checkpoint::Checkpoint;
use tessera_model::{LoadOptions, VisionModel};
use tessera_tensor::{DType, HostTensor};
use tessera_testkit::{FAMILIES, Golden, distance, family_dir, pixels};

use crate::run::{dense, tiles_of};

fn load(family: &str, options: &LoadOptions<'_>) -> VisionModel {
    VisionModel::load(&Checkpoint::open(&family_dir(family)).unwrap(), options).unwrap()
}

/// The projected rows of the images of a case.
fn projected(vision: &VisionModel, family: &str, case: &str, golden: &Golden) -> Vec<f32> {
    let geometry = Checkpoint::open(&family_dir(family)).unwrap().geometry();
    let pixels = pixels(geometry.tile(), case).torchvision;
    let project = |(index, &(height, width)): (usize, &(u32, u32))| {
        let plan = geometry.plan(ImageSize { height, width });
        let encoded = vision.encode(&tiles_of(&pixels, index, plan.tile_count())).unwrap();
        let features = vision.pack(&encoded, &plan).unwrap();
        vision.project(&features, &plan).unwrap().to_f32()
    };
    golden.image_sizes.iter().enumerate().flat_map(project).collect()
}

#[test]
fn the_program_of_the_gpus_gives_the_references_features() {
    // The reference of this one ran in half precision; see the parity of the whole model.
    for family in FAMILIES.into_iter().filter(|family| *family != "mistral_hub_fp16") {
        let vision = load(family, &dense(DType::F32, 1));
        for case in ["one_image", "portrait", "two_images"] {
            let golden = Golden::load(family, case);
            let expected = golden.packed_features.as_ref().unwrap().to_f32();
            let worst = distance(&projected(&vision, family, case, &golden), &expected);
            println!("{family:17} {case:11} {worst:.2e}");
            assert!(worst <= 1e-4, "{family}/{case}: {worst:.2e}");
        }
    }
}

#[test]
fn images_in_one_pass_give_what_each_gives_alone() {
    for family in ["mistral", "siglip_full"] {
        for options in [LoadOptions::default(), dense(DType::F32, 1), dense(DType::BF16, 1)] {
            let vision = load(family, &options);
            let images = [2, 1, 3].map(|tiles| tiles_of(&pixels(56, "one_image").torchvision, 0, tiles));
            let together = vision.start(&images).unwrap().finish().unwrap();
            let alone: Vec<HostTensor> = images.iter().map(|image| vision.encode(image).unwrap()).collect();
            let alone: Vec<u8> = alone.iter().flat_map(|rows| rows.data().to_vec()).collect();
            assert!(together.data()[..] == alone, "{family} in {}, bit for bit", options.compute);
            assert_eq!((together.dtype(), together.shape()[0]), (options.compute, 6 * 16));
        }
    }
}

#[test]
fn sixteen_bits_are_near_to_what_thirty_two_give() {
    for family in ["mistral", "siglip_full"] {
        let golden = Golden::load(family, "one_image");
        let expected = golden.packed_features.as_ref().unwrap().to_f32();
        let scale = expected.iter().fold(0.0f32, |most, number| most.max(number.abs()));
        // Of the largest number, 2^-8 is what rounding to bf16 once may cost, and 2^-11 to f16.
        for (compute, bits) in [(DType::F16, 11), (DType::BF16, 8)] {
            let vision = load(family, &dense(compute, 1));
            let worst = distance(&projected(&vision, family, "one_image", &golden), &expected) / scale;
            println!("{family:17} {compute} {worst:.2e} of {scale:.1}");
            assert!(worst <= 8.0 * (-f32::from(bits as u8)).exp2(), "{family} in {compute}: {worst:.2e}");
        }
    }
}

#[test]
fn pixels_of_another_shape_are_refused() {
    for options in [LoadOptions::default(), dense(DType::F32, 1)] {
        let vision = load("mistral", &options);
        let image = |shape: &[usize]| HostTensor::from_f32(shape.to_vec(), vec![0.0; shape.iter().product()]).unwrap();
        let fits = image(&[1, 3, 56, 56]);
        for wrong in
            [vec![], vec![fits.clone(), image(&[1, 3, 56, 42])], vec![image(&[0, 3, 56, 56])], vec![image(&[3])]]
        {
            let error = vision.start(&wrong).err().unwrap().to_string();
            assert!(error.contains("pixels") && error.contains("[tiles, 3, 56, 56]"), "{error}");
        }
        assert!(vision.start(&[fits]).is_ok());
    }
}

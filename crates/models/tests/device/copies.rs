//! Bytes that go to the device and come back are the same.

use distorch_runtime::DType;
use distorch_runtime::copies;
use distorch_runtime::tensor::{AnyTensor, Fp8Tensor, TensorData, cpu};

use super::Tested;
use super::common::seeded;

/// Sizes around those in which memory and copies are divided.
const COUNTS: [usize; 6] = [1, 3, 255, 4097, 65_536, 1_048_579];

#[test]
fn floats_come_back_as_they_went() {
    let tested = Tested::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        if !tested.has(dtype) {
            continue;
        }
        for count in COUNTS {
            let data = TensorData::new(seeded::uniform("copy", count, 1), [count]);
            let data = data.convert_dtype(dtype);
            for pin in [false, true] {
                let bytes = data.as_bytes().to_vec();
                let there = AnyTensor::from_bytes(bytes, vec![count], dtype, &tested.device, pin);
                let kept = there.clone();
                for copy in [copies::to_device(there, &cpu()).unwrap(), kept] {
                    let back = copy.into_data().unwrap();
                    assert_eq!(back.dtype, dtype);
                    assert!(back.as_bytes() == data.as_bytes(), "{dtype:?} {count} {pin}");
                }
            }
        }
    }
}

/// Bytes that stand for 8-bit floats are looked up on the device.
#[test]
fn codes_become_the_values_they_stand_for() {
    let tested = Tested::new();
    if !Fp8Tensor::fit(&tested.device) {
        println!("skipped: {} holds no bytes", tested.name);
        return;
    }
    let table: [f32; 256] = std::array::from_fn(|code| code as f32 / 7.0 - 11.0);
    for count in COUNTS {
        let bytes: Vec<u8> = (0..count).map(|at| (at * 31 % 256) as u8).collect();
        let expected: Vec<f32> = bytes.iter().map(|code| table[*code as usize]).collect();
        for pin in [false, true] {
            let codes = Fp8Tensor::from_bytes(bytes.clone(), vec![count], &tested.device, pin);
            let values = codes.decode(&table, &tested.device).into_data().unwrap();
            assert!(values.to_vec::<f32>().unwrap() == expected, "{count} {pin}");
        }
    }
}

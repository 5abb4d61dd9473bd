//! The stream for copies, through CubeCL.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn_cubecl::cubecl::client::ComputeClient;
use burn_cubecl::cubecl::future::{self, DynFut};
use burn_cubecl::cubecl::server::ServerError;
use burn_cubecl::cubecl::zspace::{Shape, metadata::Metadata};
use burn_cubecl::tensor::CubeTensor;
use burn_dispatch::DispatchTensorKind;
use cubecl_common::stream_id::StreamId;
use distorch_cube::kind::from_kind;

use super::flights::{Flights, Queue, Users};
use crate::tensor::device::Releases;
use crate::tensor::{Piece, Primitive, Stream};

/// The stream for copies of every device: the last of those that CubeCL has, which are counted from the first.
const COPIES: StreamId = StreamId { value: u64::MAX };

/// Of large models.
const LAYERS: usize = 1024;

/// The stream for copies of one device.
pub(super) struct Uploads<R: burn_cubecl::CubeRuntime> {
    client: ComputeClient<R>,
    device: R::CubeDevice,
    /// How a tensor of this runtime goes into one of any.
    kind: fn(CubeTensor<R>, bool) -> DispatchTensorKind,
    users: Mutex<Users>,
    flights: Mutex<Flights<DynFut<Result<(), ServerError>>>>,
    releases: Releases,
}

impl<R: burn_cubecl::CubeRuntime> Uploads<R> {
    pub(super) fn new(
        device: R::CubeDevice,
        kind: fn(CubeTensor<R>, bool) -> DispatchTensorKind,
    ) -> Self {
        Self {
            client: R::client(&device),
            device,
            kind,
            users: Mutex::default(),
            flights: Mutex::default(),
            releases: Releases::default(),
        }
    }

    /// The stream computes with what is brought.
    pub(super) fn used_by(&self, stream: Stream) {
        lock(&self.users).note(stream);
    }

    /// Orders the copies, and waits for older ones.
    pub(super) fn bring(&self, mut pieces: Vec<Piece>) -> Result<Vec<Primitive>, String> {
        let users = lock(&self.users).0.clone();
        // One at a time, so that a copy that is told later is later in the stream.
        let mut flights = lock(&self.flights);
        // What does not lie in page-locked memory is copied there now, by this thread.
        let bytes = pieces.iter_mut().map(|piece| &mut piece.bytes);
        COPIES.executes(|| self.client.staging(bytes, false));
        pieces.iter_mut().for_each(Piece::settle);
        let kinds: Vec<bool> =
            pieces.iter().map(|piece| piece.dtype == burn::tensor::DType::U8).collect();
        let ordered = self.client.exclusive(|| self.order(&users, pieces));
        let brought =
            ordered.map_err(|error| format!("the device could not take it: {error:?}"))??;
        flights.ordered(self)?;
        drop(flights);
        let tensors = brought.into_iter().zip(kinds);
        Ok(tensors.map(|(tensor, codes)| from_kind((self.kind)(tensor, codes))).collect())
    }

    /// On the device's own thread, so that nobody tells it anything meanwhile: the copies wait for all that the users
    /// were told so far, then memory is reserved and the copies are told. Memory that is free by now was let go
    /// of by kernels that were told before.
    fn order(&self, users: &[Stream], pieces: Vec<Piece>) -> Result<Vec<CubeTensor<R>>, String> {
        for user in users {
            // Memory of the user's, told of just now: whoever asks for it waits for the user's stream as it is now.
            let mark = user.0.executes(|| self.client.empty(size_of::<u32>()));
            let met = COPIES.executes(|| self.client.get_resource(mark));
            met.map_err(|error| format!("the streams could not be ordered: {error:?}"))?;
        }
        // After the waits above: no kernel reads what goes back.
        if self.releases.is_due(LAYERS) {
            COPIES.executes(|| self.client.memory_cleanup());
        }
        let take = |Piece { bytes, shape, dtype }: Piece| {
            // One value after the other, as `placed` has them.
            let values = Shape::from(vec![shape.iter().product::<usize>()]);
            let layout = self.client.create_tensor(bytes, values, dtype.size());
            let metadata = Metadata::new(Shape::from(shape.clone()), row_major(&shape));
            CubeTensor::new(
                self.client.clone(),
                layout.memory,
                metadata,
                self.device.clone(),
                dtype,
            )
        };
        Ok(COPIES.executes(|| pieces.into_iter().map(take).collect()))
    }

    /// Waits for all copies, and lets go of what they were made from.
    pub(super) fn finish(&self) {
        // What went wrong is met by whoever reads results.
        let _ = lock(&self.flights).finish(self);
    }
}

impl<R: burn_cubecl::CubeRuntime> Queue for Uploads<R> {
    type Point = DynFut<Result<(), ServerError>>;

    fn point(&self) -> Result<Self::Point, String> {
        // An event that is recorded now, and a wait for it that begins when it is asked for.
        Ok(COPIES.executes(|| self.client.sync()))
    }

    fn wait(&self, point: Self::Point) -> Result<(), String> {
        future::block_on(point).map_err(|error| format!("a copy to the device failed: {error:?}"))
    }

    fn let_go(&self) {
        // What is wrong with the stream is told with the next point.
        let _ = COPIES.executes(|| self.client.flush());
    }
}

/// The strides of values that lie one after the other.
fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That of a CUDA device.
#[cfg(feature = "cuda")]
pub(super) fn cuda(
    device: &burn::backend::cuda::CudaDevice,
) -> Arc<Uploads<burn_cubecl::cubecl::cuda::CudaRuntime>> {
    use burn_dispatch::BackendTensor;

    type Known = Mutex<BTreeMap<usize, Arc<Uploads<burn_cubecl::cubecl::cuda::CudaRuntime>>>>;
    static KNOWN: Known = Mutex::new(BTreeMap::new());
    let new = || {
        let kind = |tensor, codes| match codes {
            true => DispatchTensorKind::Cuda(BackendTensor::Int(tensor)),
            false => DispatchTensorKind::Cuda(BackendTensor::Float(tensor)),
        };
        Arc::new(Uploads::new(device.clone(), kind))
    };
    Arc::clone(lock(&KNOWN).entry(device.index).or_insert_with(new))
}

#[cfg(all(test, feature = "vulkan"))]
mod tests {
    use burn_cubecl::cubecl::wgpu::WgpuRuntime;
    use burn_dispatch::BackendTensor;

    use super::*;
    use crate::tensor::{AnyTensor, DType, Device};

    /// Memory that is used over and over: each piece is read by a kernel that is told long before it runs, dropped at
    /// once, and the next piece takes its memory. Every kernel reads what was brought for it.
    #[test]
    fn no_copy_overtakes_the_kernels_that_read_its_memory() {
        if std::env::var_os("DISTORCH_EXPECT_VULKAN").is_none() {
            return;
        }
        let device = Device::Vulkan(burn::backend::wgpu::WgpuDevice::default());
        let Device::Vulkan(wgpu) = &device else { unreachable!("it is made so") };
        let kind = |tensor, codes| match codes {
            true => DispatchTensorKind::Vulkan(BackendTensor::Int(tensor)),
            false => DispatchTensorKind::Vulkan(BackendTensor::Float(tensor)),
        };
        let uploads = Arc::new(Uploads::<WgpuRuntime>::new(wgpu.clone(), kind));
        uploads.used_by(Stream::current());
        let (side, rounds) = (256_u16, 60_u16);
        let (send, receive) = std::sync::mpsc::sync_channel(3);
        let loader = std::thread::spawn(move || {
            for round in 0..rounds {
                let values = vec![f32::from(round); usize::from(side) * usize::from(side)];
                let bytes = bytes::Bytes::from(bytemuck::cast_slice::<f32, u8>(&values).to_vec());
                let shape = vec![usize::from(side); 2];
                let piece = match round % 2 {
                    0 => Piece::pinned(bytes, shape.clone(), DType::F32),
                    _ => Piece::shared(bytes, shape.clone(), DType::F32),
                };
                let tensor = uploads.bring(vec![piece]).unwrap().remove(0);
                send.send(AnyTensor::from_primitive(tensor, shape)).unwrap();
            }
            uploads.finish();
        });
        let products: Vec<_> = receive
            .iter()
            .map(|tensor| {
                let tensor = tensor.rank::<2>().unwrap();
                // The product of two matrices of `round` is `side × round²` everywhere.
                tensor.clone().matmul(tensor)
            })
            .collect();
        loader.join().unwrap();
        assert_eq!(products.len(), usize::from(rounds));
        for (round, product) in (0..rounds).zip(products) {
            let values = product.into_data().to_vec::<f32>().unwrap();
            let expected = f32::from(side) * f32::from(round) * f32::from(round);
            assert!(values.iter().all(|value| *value == expected), "{round}: {}", values[0]);
        }
    }
}

//! The functions and classes that a checkpoint may name.
//!
//! None is ever called: each stands for what reading tensors makes of it. Whatever is not in this
//! table is refused.

use crate::dtype::Dtype;

/// A function or class of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// `torch._utils._rebuild_tensor(storage, offset, size, stride)`; `_v2` has more arguments
    /// behind these.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v3`: as above, with the dtype as the seventh argument.
    RebuildTensorV3,
    /// `torch._utils._rebuild_parameter(data, …)` and its kin: the tensor is the first argument.
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2(func, type, args, state)`.
    RebuildFromType,
    /// A tensor of a kind that is not read: sparse, quantized, …
    UnreadTensor(&'static str),
    /// A storage class, such as `torch.HalfStorage`.
    Storage(Element),
    /// A dtype, such as `torch.float16`.
    Dtype(Element),
    /// `torch.Size`.
    Size,
    /// `dict`, `collections.OrderedDict` and their kin.
    Mapping,
    /// `torch.nn.ParameterDict`.
    ParameterDict,
    /// Something harmless that checkpoints carry next to their tensors.
    Inert,
}

/// What a storage's or tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// A dtype that is carried.
    Known(Dtype),
    /// Bytes; the tensor says what they are.
    Untyped,
    /// A dtype of PyTorch that is not carried: its name and bytes per element.
    Foreign(&'static str, usize),
}

impl Element {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Element::Known(dtype) => dtype.size(),
            Element::Untyped => 1,
            Element::Foreign(_, size) => size,
        }
    }
}

/// The storage classes: of `torch`, `torch.cuda` and `torch.storage`.
const STORAGES: &[(&str, Element)] = &[
    ("DoubleStorage", Element::Known(Dtype::F64)),
    ("FloatStorage", Element::Known(Dtype::F32)),
    ("HalfStorage", Element::Known(Dtype::F16)),
    ("BFloat16Storage", Element::Known(Dtype::BF16)),
    ("LongStorage", Element::Known(Dtype::I64)),
    ("IntStorage", Element::Known(Dtype::I32)),
    ("ShortStorage", Element::Known(Dtype::I16)),
    ("CharStorage", Element::Known(Dtype::I8)),
    ("ByteStorage", Element::Known(Dtype::U8)),
    ("BoolStorage", Element::Known(Dtype::Bool)),
    ("Float8_e4m3fnStorage", Element::Known(Dtype::F8E4M3)),
    ("Float8_e5m2Storage", Element::Known(Dtype::F8E5M2)),
    ("UntypedStorage", Element::Untyped),
    ("_UntypedStorage", Element::Untyped),
    ("ComplexFloatStorage", Element::Foreign("complex64", 8)),
    ("ComplexDoubleStorage", Element::Foreign("complex128", 16)),
    ("QInt8Storage", Element::Foreign("qint8", 1)),
    ("QUInt8Storage", Element::Foreign("quint8", 1)),
    ("QInt32Storage", Element::Foreign("qint32", 4)),
    ("QUInt4x2Storage", Element::Foreign("quint4x2", 1)),
    ("QUInt2x4Storage", Element::Foreign("quint2x4", 1)),
];

/// The dtypes of `torch`.
const DTYPES: &[(&str, Element)] = &[
    ("float64", Element::Known(Dtype::F64)),
    ("double", Element::Known(Dtype::F64)),
    ("float32", Element::Known(Dtype::F32)),
    ("float", Element::Known(Dtype::F32)),
    ("float16", Element::Known(Dtype::F16)),
    ("half", Element::Known(Dtype::F16)),
    ("bfloat16", Element::Known(Dtype::BF16)),
    ("float8_e4m3fn", Element::Known(Dtype::F8E4M3)),
    ("float8_e5m2", Element::Known(Dtype::F8E5M2)),
    ("int64", Element::Known(Dtype::I64)),
    ("long", Element::Known(Dtype::I64)),
    ("int32", Element::Known(Dtype::I32)),
    ("int", Element::Known(Dtype::I32)),
    ("int16", Element::Known(Dtype::I16)),
    ("short", Element::Known(Dtype::I16)),
    ("int8", Element::Known(Dtype::I8)),
    ("uint8", Element::Known(Dtype::U8)),
    ("bool", Element::Known(Dtype::Bool)),
    ("uint16", Element::Foreign("uint16", 2)),
    ("uint32", Element::Foreign("uint32", 4)),
    ("uint64", Element::Foreign("uint64", 8)),
    ("float8_e4m3fnuz", Element::Foreign("float8_e4m3fnuz", 1)),
    ("float8_e5m2fnuz", Element::Foreign("float8_e5m2fnuz", 1)),
    ("float8_e8m0fnu", Element::Foreign("float8_e8m0fnu", 1)),
    ("float4_e2m1fn_x2", Element::Foreign("float4_e2m1fn_x2", 1)),
    ("complex32", Element::Foreign("complex32", 4)),
    ("complex64", Element::Foreign("complex64", 8)),
    ("cfloat", Element::Foreign("complex64", 8)),
    ("complex128", Element::Foreign("complex128", 16)),
    ("cdouble", Element::Foreign("complex128", 16)),
    ("bits8", Element::Foreign("bits8", 1)),
    ("bits16", Element::Foreign("bits16", 2)),
    ("qint8", Element::Foreign("qint8", 1)),
    ("quint8", Element::Foreign("quint8", 1)),
    ("qint32", Element::Foreign("qint32", 4)),
];

/// Harmless names: what trainers put next to the tensors, and what pickle itself needs for it.
const INERT: &[(&str, &[&str])] = &[
    ("torch", &["Tensor", "device", "strided", "per_tensor_affine", "per_channel_affine"]),
    ("torch.nn.parameter", &["Buffer"]),
    ("torch.serialization", &["_get_layout"]),
    ("torch.torch_version", &["TorchVersion"]),
    ("collections", &["deque"]),
    ("copyreg", &["_reconstructor"]),
    ("copy_reg", &["_reconstructor"]),
    ("_codecs", &["encode"]),
    (
        "pathlib",
        &["Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"],
    ),
    (
        "pathlib._local",
        &["Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"],
    ),
    ("argparse", &["Namespace"]),
    ("types", &["SimpleNamespace"]),
    ("typing", &["Any"]),
    ("datetime", &["date", "datetime", "timedelta", "timezone"]),
    ("numpy.core.multiarray", &["scalar", "_reconstruct"]),
    ("numpy._core.multiarray", &["scalar", "_reconstruct"]),
    (
        "numpy",
        &[
            "dtype", "ndarray", "bool_", "float16", "float32", "float64", "int16", "int32",
            "int64", "int8", "uint8", "str_",
        ],
    ),
];

/// Builtin types whose instances are plain data.
const BUILTINS: &[&str] = &[
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "float",
    "frozenset",
    "int",
    "list",
    "long",
    "object",
    "range",
    "set",
    "slice",
    "str",
    "tuple",
    "unicode",
    "xrange",
];

/// Packages all of whose classes are inert: checkpoints of training runs carry their callbacks
/// and configurations.
const INERT_PACKAGES: &[&str] =
    &["pytorch_lightning", "lightning", "lightning_fabric", "omegaconf"];

impl Global {
    /// What `module.name` stands for; `None` if it is refused.
    pub fn find(module: &str, name: &str) -> Option<Global> {
        let listed = |table: &[(&str, Element)]| {
            table.iter().find(|(known, _)| *known == name).map(|(_, element)| *element)
        };
        match (module, name) {
            ("torch._utils", _) => rebuild(name),
            ("torch._tensor", "_rebuild_from_type_v2" | "_rebuild_from_type") => {
                Some(Global::RebuildFromType)
            }
            ("torch.nn.parameter", "Parameter") => Some(Global::RebuildParameter),
            ("torch.nn.modules.container", "ParameterDict") => Some(Global::ParameterDict),
            ("torch", "Size") => Some(Global::Size),
            ("collections", "OrderedDict" | "defaultdict" | "Counter") => Some(Global::Mapping),
            ("builtins" | "__builtin__", "dict") => Some(Global::Mapping),
            ("builtins" | "__builtin__", _) => BUILTINS.contains(&name).then_some(Global::Inert),
            ("torch" | "torch.cuda" | "torch.storage", _) => listed(STORAGES)
                .map(Global::Storage)
                .or_else(|| listed(DTYPES).filter(|_| module == "torch").map(Global::Dtype))
                .or_else(|| inert(module, name)),
            _ => inert(module, name),
        }
    }
}

fn rebuild(name: &str) -> Option<Global> {
    Some(match name {
        "_rebuild_tensor" | "_rebuild_tensor_v2" => Global::RebuildTensor,
        "_rebuild_tensor_v3" => Global::RebuildTensorV3,
        "_rebuild_parameter" | "_rebuild_parameter_with_state" => Global::RebuildParameter,
        "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => Global::UnreadTensor("sparse"),
        "_rebuild_qtensor" => Global::UnreadTensor("quantized"),
        "_rebuild_nested_tensor" => Global::UnreadTensor("nested"),
        "_rebuild_meta_tensor_no_storage" => Global::UnreadTensor("meta (without data)"),
        "_rebuild_wrapper_subclass" => Global::UnreadTensor("tensor-subclass"),
        "_rebuild_device_tensor_from_numpy" => Global::UnreadTensor("NumPy-backed"),
        _ => return None,
    })
}

fn inert(module: &str, name: &str) -> Option<Global> {
    let listed = INERT.iter().any(|(known, names)| *known == module && names.contains(&name));
    let package = module.split('.').next().unwrap_or(module);
    // A dotted name walks from the class to whatever its module imports.
    let packaged = INERT_PACKAGES.contains(&package) && !name.contains('.');
    (listed || packaged).then_some(Global::Inert)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tensors_need_is_known() {
        for (module, name, expected) in [
            ("torch", "HalfStorage", Global::Storage(Element::Known(Dtype::F16))),
            ("torch.cuda", "FloatStorage", Global::Storage(Element::Known(Dtype::F32))),
            ("torch.storage", "UntypedStorage", Global::Storage(Element::Untyped)),
            ("torch", "float8_e4m3fn", Global::Dtype(Element::Known(Dtype::F8E4M3))),
            ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
            ("collections", "OrderedDict", Global::Mapping),
            ("__builtin__", "set", Global::Inert),
            ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", Global::Inert),
        ] {
            assert_eq!(Global::find(module, name), Some(expected), "{module}.{name}");
        }
    }

    #[test]
    fn all_else_is_refused() {
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("__builtin__", "exec"),
            ("torch", "load"),
            ("torch", "hub"),
            ("torch.storage", "_load_from_bytes"),
            ("torch.cuda", "float16"),
            ("pytorch_lightning.callbacks", "ModelCheckpoint.os.system"),
            ("lightningx", "Thing"),
            ("", ""),
        ] {
            assert_eq!(Global::find(module, name), None, "{module}.{name}");
        }
    }
}

//! Classes of nodes that other programs and packs have and this one does not: what to tell about
//! them.

use crate::registry::{Absent, Classes};

/// What is known of classes that are absent here.
pub fn absent() -> impl Iterator<Item = Absent> {
    let named = |&(name, provider)| Absent { classes: Classes::Named(name), provider };
    let marked = |&(mark, provider)| Absent { classes: Classes::Containing(mark), provider };
    let paid = |&mark| Absent { classes: Classes::Containing(mark), provider: PAID };
    CLASSES.iter().map(named).chain(MARKS.iter().map(marked)).chain(SERVICES.iter().map(paid))
}

/// Whole names.
const CLASSES: &[(&str, &str)] = &[
    ("CLIPVisionEncode", "ComfyUI (CLIP vision)"),
    ("CLIPVisionLoader", "ComfyUI (CLIP vision)"),
    ("ControlNetApply", "ComfyUI (ControlNet)"),
    ("ControlNetApplyAdvanced", "ComfyUI (ControlNet)"),
    ("ControlNetLoader", "ComfyUI (ControlNet)"),
    ("unCLIPConditioning", "ComfyUI (unCLIP)"),
];

/// What the names of a pack's classes have in common.
const MARKS: &[(&str, &str)] = &[
    ("DisTorch2MultiGPU", "the node pack ComfyUI-MultiGPU"),
    ("DisTorchMultiGPU", "the node pack ComfyUI-MultiGPU"),
    ("MultiGPU", "the node pack ComfyUI-MultiGPU"),
    ("GGUF", "the node pack ComfyUI-GGUF"),
    ("(rgthree)", "the node pack rgthree-comfy"),
    ("IPAdapter", "the node pack ComfyUI_IPAdapter_plus"),
    ("ADE_", "the node pack ComfyUI-AnimateDiff-Evolved"),
    ("VHS_", "the node pack ComfyUI-VideoHelperSuite"),
    ("KJNodes", "the node pack ComfyUI-KJNodes"),
    ("FaceDetailer", "the node pack ComfyUI-Impact-Pack"),
    ("Impact", "the node pack ComfyUI-Impact-Pack"),
    ("WAS_", "the node pack was-node-suite-comfyui"),
    ("Efficient", "the node pack efficiency-nodes-comfyui"),
    ("WanVideo", "the node pack ComfyUI-WanVideoWrapper"),
    ("easy ", "the node pack ComfyUI-Easy-Use"),
    ("CR ", "the node pack ComfyUI_Comfyroll_CustomNodes"),
    ("UltimateSDUpscale", "the node pack ComfyUI_UltimateSDUpscale"),
];

/// Who has the classes of services.
const PAID: &str = "a paid service, and distorch calls none";

/// What the names of classes have in common that send their inputs to a service.
const SERVICES: &[&str] = &[
    "Beeble",
    "Bria",
    "ByteDance",
    "ClarityCrystal",
    "ClaudeNode",
    "ElevenLabs",
    "FishAudio",
    "FluxProUltra",
    "FluxProExpand",
    "FluxProFill",
    "FluxProCanny",
    "FluxProDepth",
    "FluxKontextPro",
    "FluxKontextMax",
    "Flux2ImageNode",
    "Flux2ProImage",
    "Flux2MaxImage",
    "Flux3ImageNode",
    "Flux3Max",
    "Gemini",
    "Grok",
    "HappyHorse",
    "HeyGen",
    "Higgsfield",
    "IdeogramPImage",
    "IdeogramV",
    "EditApi",
    "TextToImageApi",
    "GenerateApi",
    "ToSVGApi",
    "VideoApi",
    "Kling",
    "Krea2ImageNode",
    "Krea2StyleReferenceNode",
    "Krea3ImageNode",
    "LtxApi",
    "LumaImage",
    "LumaRay",
    "LumaReference",
    "Magnific",
    "Meshy",
    "MinimaxHailuo",
    "Mirelo",
    "Moonvalley",
    "OpenAI",
    "OpenRouter",
    "Pixverse",
    "Pruna",
    "Quiver",
    "Recraft",
    "Rodin3D",
    "Runway",
    "Sonilo",
    "StabilityStableImage",
    "StabilityUpscale",
    "SyncLipSync",
    "SyncTalking",
    "Tencent",
    "Topaz",
    "TripoConversion",
    "TripoImageToModel",
    "TripoMultiview",
    "TripoP1",
    "TripoPSeries",
    "TripoRetarget",
    "TripoRig",
    "TripoText",
    "Veed",
    "Veo3",
    "VeoVideo",
    "Vidu",
    "Wavespeed",
];

//! Student and teacher: one set of modules, two sets of parameters.

use std::sync::Arc;

use crate::Result;
use crate::config::Config;
use crate::device::{DType, Device, Tensor, class};
use crate::nn::decoder::Decoder;
use crate::nn::encoder::Encoder;
use crate::nn::head::ProjectionHead;
use crate::nn::init;
use crate::nn::params::Params;
use crate::param_layout::ParamLayout;

use super::plan::{EncodePlan, PositionTables, row_range};
use crate::tape::{Tape, Var};

/// The networks of GL-MAE, without parameters.
#[derive(Clone, Debug)]
pub struct Networks {
    pub encoder: Encoder,
    pub head: Option<ProjectionHead>,
    /// One shared decoder, or one for global and one for local views (U10).
    pub decoders: Vec<Decoder>,
    pub tables: PositionTables,
    /// Encoder, head, decoder: the teacher's layout is the front part of the student's.
    pub student_layout: Arc<ParamLayout>,
    pub teacher_layout: Arc<ParamLayout>,
}

/// What a run learns: parameters of both branches and the centre.
#[derive(Clone, Debug)]
pub struct Weights {
    pub student: Params,
    /// Present when the objective has a term that compares with it.
    pub teacher: Option<Params>,
    /// Centre of the teacher's logits, `[K]`; with a projection head.
    pub center: Option<Tensor>,
}

impl Networks {
    /// Networks for `config` on `device`, for activations of `dtype` (position tables stay f32 when
    /// that is bf16).
    pub fn new(device: &Device, dtype: DType, config: &Config) -> Result<Self> {
        let _class = class::scope("tables");
        let mut layout = ParamLayout::default();
        let encoder = Encoder::new(&mut layout, &config.model);
        let head = config
            .loss
            .objective
            .has_head()
            .then(|| ProjectionHead::new(&mut layout, &config.model, &config.head));
        let teacher_layout = Arc::new(layout.clone());
        let separate = !config.model.shared_decoder && config.loss.objective.has_global_views();
        let prefixes: &[&str] = if separate { &["", "local_"] } else { &[""] };
        let decoders =
            prefixes.iter().map(|p| Decoder::new(&mut layout, &config.model, p)).collect();
        Ok(Self {
            encoder,
            head,
            decoders,
            tables: PositionTables::new(device, dtype.master(), config)?,
            student_layout: Arc::new(layout),
            teacher_layout,
        })
    }
}

impl Networks {
    /// Encodes the rows of `patches`, those of a batch, that the plan names: rows `[T, dim]` of packed
    /// sequences. The one way into the encoder, for student, teacher and pictures.
    pub fn encode<'a>(
        &'a self,
        tape: &mut Tape<'a>,
        params: &'a Params,
        patches: &Tensor,
        plan: &'a EncodePlan,
    ) -> Result<Var> {
        let patches = Var::constant(row_range(patches, &plan.patches)?);
        let table = &self.tables.encoder;
        self.encoder.forward(tape, params, &patches, table, &plan.assemble, &plan.packing)
    }
}

impl Weights {
    /// Zeros in the right shapes, to be initialised or loaded, for activations of `dtype`: with bf16 the
    /// values stay f32 and have bf16 copies beside them ([`Params::refresh_half`]).
    pub fn zeros(device: &Device, dtype: DType, config: &Config, nets: &Networks) -> Result<Self> {
        let _class = class::scope("weights");
        let student = Params::zeros(device, dtype, nets.student_layout.clone(), true)?;
        let (mut teacher, mut center) = (None, None);
        if config.loss.objective.has_teacher() {
            teacher = Some(Params::zeros(device, dtype, nets.teacher_layout.clone(), false)?);
        }
        if config.loss.objective.has_head() {
            center = Some(Tensor::zeros(device, dtype.master(), &[config.head.prototypes])?);
        }
        Ok(Self { student, teacher, center })
    }

    /// The state before step 0: drawn from the seed; the teacher is a copy of the student.
    pub fn init(device: &Device, dtype: DType, config: &Config, nets: &Networks) -> Result<Self> {
        let mut weights = Self::zeros(device, dtype, config, nets)?;
        init::init(&mut weights.student, config.train.seed)?;
        if let Some(teacher) = &mut weights.teacher {
            let front = weights.student.flat().view(0, &[teacher.layout().len()])?;
            *teacher.flat_mut() = front.duplicate()?;
        }
        weights.refresh_half()?;
        Ok(weights)
    }

    /// Brings bf16 copies up to date after values were written.
    pub fn refresh_half(&mut self) -> Result<()> {
        self.student.refresh_half()?;
        self.teacher.as_mut().map_or(Ok(()), Params::refresh_half)
    }
}

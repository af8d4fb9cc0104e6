//! A mixture of experts: each token goes through some of many gated MLPs (Shazeer et al. 2017).

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use realign_core::rows;
use realign_tensor::{Activation, Frozen, gated, top_k};

use crate::ExpertsConfig;

/// One layer's experts and their router.
#[derive(Clone, Debug)]
pub(crate) struct Experts {
    pub(crate) config: ExpertsConfig,
    /// `[d_model, expert]`.
    pub(crate) router: Frozen,
    /// Each expert's maps.
    pub(crate) gate: Vec<Frozen>,
    pub(crate) up: Vec<Frozen>,
    pub(crate) down: Vec<Frozen>,
}

/// Which token each expert sees. A *place* is one expert of one token: `token · per_token + rank`.
struct Routes {
    /// The places of each expert that has some.
    by_expert: Vec<(usize, Vec<usize>)>,
    per_token: usize,
}

impl Routes {
    fn new(chosen: &[usize], experts: usize, per_token: usize) -> Self {
        let mut by_expert = vec![Vec::new(); experts];
        for (place, &expert) in chosen.iter().enumerate() {
            by_expert[expert].push(place);
        }
        let by_expert = by_expert.into_iter().enumerate();
        Self {
            by_expert: by_expert.filter(|(_, places)| !places.is_empty()).collect(),
            per_token,
        }
    }

    /// Runs each expert on the rows of its places; gives all rows in the order of places.
    fn each(
        &self,
        row: impl Fn(usize) -> usize,
        x: &Tensor<2>,
        run: impl Fn(usize, Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        let parts = self.by_expert.iter().map(|(expert, places)| {
            let rows_of: Vec<usize> = places.iter().map(|&place| row(place)).collect();
            run(*expert, rows(x.clone(), &rows_of))
        });
        let parts = Tensor::cat(parts.collect(), 0);
        let order: Vec<usize> = self.by_expert.iter().flat_map(|(_, places)| places.clone()).collect();
        let mut back = vec![0; order.len()];
        for (row, &place) in order.iter().enumerate() {
            back[place] = row;
        }
        rows(parts, &back)
    }
}

impl Experts {
    /// `x [token, d_model]` through each token's experts, weighted by the router; `post` sees what their down projections
    /// read, `[token, per_token · width]`, in the router's order.
    pub(crate) fn forward(
        &self,
        x: Tensor<2>,
        activation: Activation,
        post: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        let ([tokens, d_model], k) = (x.dims(), self.config.per_token);
        if tokens == 0 {
            return x;
        }
        let (mut weights, chosen) = top_k(softmax(self.router.apply(x.clone()), 1), k);
        if self.config.normalised {
            weights = weights.clone() / weights.sum_dim(1);
        }
        let chosen: Vec<usize> = chosen.into_data().iter::<i64>().map(|expert| expert as usize).collect();
        let routes = Routes::new(&chosen, self.config.count, k);
        let inner = routes.each(
            |place| place / routes.per_token,
            &x,
            |expert, x| {
                let (gate, up) = (self.gate[expert].apply(x.clone()), self.up[expert].apply(x));
                gated(gate, up, activation)
            },
        );
        let width = inner.dims()[1];
        let inner = post(inner.reshape([tokens, k * width])).reshape([tokens * k, width]);
        let outer = routes.each(|place| place, &inner, |expert, x| self.down[expert].apply(x));
        let outer: Tensor<3> = outer.reshape([tokens, k, d_model]);
        (outer * weights.reshape([tokens, k, 1]))
            .sum_dim(1)
            .reshape([tokens, d_model])
    }
}

//! A programmer's mistake panics and says both shapes.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};
use realign_tensor::{
    AdamWStep, Span, Spans, adamw, add_rms_norm, attention, cross_entropy, encode_above, encode_batch_top_k,
    low_rank_linear, product, rms_norm, rotary, sparse_decode, sparse_encode, swiglu, test_device, top_k,
};

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(shape, &test_device())
}

fn columns<const D: usize>(shape: [usize; D]) -> Tensor<D, Int> {
    Tensor::zeros(shape, &test_device())
}

macro_rules! panics {
    ($($name:ident: $message:literal, $call:expr;)*) => {$(
        #[test]
        #[should_panic(expected = $message)]
        fn $name() {
            let _ = $call;
        }
    )*};
}

panics! {
    product_of_unlike_widths: "product: a is [2, 3], but b is [4, 5]", product(zeros([2, 3]), zeros([4, 5]));
    add_rms_norm_of_two_shapes: "add_rms_norm: delta has shape [2, 4], expected [2, 3]",
        add_rms_norm(zeros([2, 3]), zeros([2, 4]), zeros([3]), 0.0);
    rms_norm_of_another_width: "rms_norm: weight has shape [4], expected [3]", rms_norm(zeros([2, 3]), zeros([4]), 0.0);
    rotary_of_other_tokens: "rotary: cos has shape [3, 2], expected [2, 2]",
        rotary(zeros([2, 1, 4]), zeros([3, 2]), zeros([2, 2]));
    rotary_of_another_width: "rotary: sin has shape [2, 3], expected [2, 2]",
        rotary(zeros([2, 1, 4]), zeros([2, 2]), zeros([2, 3]));
    rotary_of_an_odd_head: "rotary: x is [2, 1, 5]: d_head must be even",
        rotary(zeros([2, 1, 5]), zeros([2, 2]), zeros([2, 2]));
    attention_of_unlike_heads: "attention: k has shape [2, 1, 5], expected [2, 1, 4]",
        attention(zeros([2, 1, 4]), zeros([2, 1, 5]), zeros([2, 1, 5]), Arc::new(Spans::packed(&[2])));
    attention_of_unlike_rows: "attention: v has shape [3, 1, 4], expected [2, 1, 4]",
        attention(zeros([2, 1, 4]), zeros([2, 1, 4]), zeros([3, 1, 4]), Arc::new(Spans::packed(&[2])));
    attention_of_odd_groups: "attention: 3 heads do not divide into 2 key/value heads",
        attention(zeros([2, 3, 4]), zeros([2, 2, 4]), zeros([2, 2, 4]), Arc::new(Spans::packed(&[2])));
    attention_over_too_few_tokens: "attention: spans cover 1 queries, but there are 2",
        attention(zeros([2, 1, 4]), zeros([2, 1, 4]), zeros([2, 1, 4]), Arc::new(Spans::packed(&[1])));
    attention_beyond_the_rows: "attention: span ends at key row 2, but there are 1 rows",
        attention(zeros([2, 1, 4]), zeros([1, 1, 4]), zeros([1, 1, 4]), Arc::new(Spans::packed(&[2])));
    attention_to_context_beyond_the_rows: "attention: context row 7, but there are 2 rows", {
        let spans = vec![Span { queries: 0..1, context: vec![7], own: 1 }];
        attention(zeros([1, 1, 4]), zeros([2, 1, 4]), zeros([2, 1, 4]), Arc::new(Spans { spans }))
    };
    attention_out_of_order: "attention: spans must cover the queries in order", {
        let spans = vec![Span { queries: 1..2, context: vec![], own: 1 }];
        attention(zeros([2, 1, 4]), zeros([2, 1, 4]), zeros([2, 1, 4]), Arc::new(Spans { spans }))
    };
    swiglu_of_unlike_shapes: "swiglu: up has shape [2, 4], expected [2, 3]", swiglu(zeros([2, 3]), zeros([2, 4]));
    low_rank_of_another_width: "low_rank_linear: a is [4, 1], but x is [2, 3]",
        low_rank_linear(zeros([2, 5]), zeros([2, 3]), zeros([4, 1]), zeros([1, 5]), 1.0);
    low_rank_of_another_rank: "low_rank_linear: b is [2, 5], but a is [3, 1]",
        low_rank_linear(zeros([2, 5]), zeros([2, 3]), zeros([3, 1]), zeros([2, 5]), 1.0);
    low_rank_beside_an_output_of_another_width: "low_rank_linear: y has shape [2, 4], expected [2, 5]",
        low_rank_linear(zeros([2, 4]), zeros([2, 3]), zeros([3, 1]), zeros([1, 5]), 1.0);
    top_more_than_all: "top_k: k = 4, but x is [2, 3]", top_k(zeros([2, 3]), 4);
    encoder_of_another_width: "sparse_encode: w_enc has shape [5, 4], expected [5, 3]",
        sparse_encode(zeros([2, 3]), zeros([5, 4]), zeros([5]), 1);
    a_threshold_for_other_latents: "encode_above: threshold has shape [4], expected [5]",
        encode_above(zeros([2, 3]), zeros([5, 3]), zeros([5]), zeros([4]));
    more_of_a_batch_than_there_are: "encode_batch_top_k: k = 6, but there are 5 latents",
        encode_batch_top_k(zeros([2, 3]), zeros([5, 3]), zeros([5]), 6);
    more_latents_than_there_are: "sparse_encode: k = 6, but there are 5 latents",
        sparse_encode(zeros([2, 3]), zeros([5, 3]), zeros([5]), 6);
    decoding_unlike_codes: "sparse_decode: indices has shape [2, 4], expected [2, 3]",
        sparse_decode(zeros([2, 3]), columns([2, 4]), zeros([5, 3]));
    targets_of_other_tokens: "cross_entropy: targets has shape [3], expected [2]",
        cross_entropy(zeros([2, 3]), zeros([9, 3]), columns([3]));
    unembedding_of_another_width: "cross_entropy: hidden is [2, 3], but unembed is [9, 4]",
        cross_entropy(zeros([2, 3]), zeros([9, 4]), columns([2]));
    adamw_with_another_gradient: "adamw: grad has shape [2, 4], expected [2, 3]",
        adamw(zeros([2, 3]), zeros([2, 4]), zeros([2, 3]), zeros([2, 3]), AdamWStep::new(1e-3, 1));
    adamw_with_another_first_moment: "adamw: first has shape [1, 3], expected [2, 3]",
        adamw(zeros([2, 3]), zeros([2, 3]), zeros([1, 3]), zeros([2, 3]), AdamWStep::new(1e-3, 1));
    adamw_with_another_second_moment: "adamw: second has shape [2, 2], expected [2, 3]",
        adamw(zeros([2, 3]), zeros([2, 3]), zeros([2, 3]), zeros([2, 2]), AdamWStep::new(1e-3, 1));
}

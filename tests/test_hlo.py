"""benchmarks/hlo.py, on a program whose bytes are counted by hand."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

PROGRAM = """HloModule jit_f, is_scheduled=true

%fused_slice (param_0: u8[1000,30], param_1: s32[]) -> f32[10,30] {
  %param_0 = u8[1000,30]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %convert = f32[1000,30]{1,0} convert(%param_0)
  ROOT %part = f32[10,30]{1,0} dynamic-slice(%convert, %param_1), dynamic_slice_sizes={10,30}
}

%fused_write (param_0.1: f32[5], param_1.1: f32[1], param_2: s32[]) -> f32[5] {
  %param_0.1 = f32[5]{0} parameter(0)
  %param_1.1 = f32[1]{0} parameter(1)
  %param_2 = s32[] parameter(2)
  ROOT %update = f32[5]{0} dynamic-update-slice(%param_0.1, %param_1.1, %param_2)
}

%body (p: (s32[], u8[1000,30], bf16[30,20], f32[5])) -> (s32[], u8[1000,30], bf16[30,20], f32[5]) {
  %p = (s32[], u8[1000,30]{1,0}, bf16[30,20]{1,0}, f32[5]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %images = u8[1000,30]{1,0} get-tuple-element(%p), index=1
  %weights = bf16[30,20]{1,0} get-tuple-element(%p), index=2
  %sums = f32[5]{0} get-tuple-element(%p), index=3
  %x = f32[10,30]{1,0} fusion(%images, %i), kind=kLoop, calls=%fused_slice
  %y = (bf16[10,20]{1,0}, u8[64]{0}) custom-call(%x, %weights), custom_call_target="__cublas$gemm"
  %last = f32[1]{0} fusion(%x), kind=kLoop, calls=%fused_slice.1
  %new = f32[5]{0} fusion(%sums, %last, %i), kind=kLoop, calls=%fused_write
  %sum = f32[] fusion(%new, %last, %i), kind=kInput, calls=%fused_sum
  ROOT %t = (s32[], u8[1000,30]{1,0}, bf16[30,20]{1,0}, f32[5]{0}) tuple(%i, %images, %weights, %new)
}

%fused_slice.1 (param_0.2: f32[10,30]) -> f32[1] {
  %param_0.2 = f32[10,30]{1,0} parameter(0)
  %b = f32[300]{0} bitcast(%param_0.2)
  ROOT %s = f32[1]{0} slice(%b), slice={[0:1]}
}

%fused_sum (param_0.3: f32[5], param_1.3: f32[1], param_2.3: s32[]) -> f32[] {
  %param_0.3 = f32[5]{0} parameter(0)
  %param_1.3 = f32[1]{0} parameter(1)
  %param_2.3 = s32[] parameter(2)
  %update.1 = f32[5]{0} dynamic-update-slice(%param_0.3, %param_1.3, %param_2.3)
  ROOT %reduce = f32[] reduce(%update.1), to_apply=%add
}

%cond (p.1: (s32[], u8[1000,30], bf16[30,20], f32[5])) -> pred[] {
  %p.1 = (s32[], u8[1000,30]{1,0}, bf16[30,20]{1,0}, f32[5]{0}) parameter(0)
  ROOT %c = pred[] constant(true)
}

ENTRY %main (a: f32[4,4], b: f32[7]) -> f32[4,4] {
  %a = f32[4,4]{1,0} parameter(0)
  %copy.1 = f32[4,4]{0,1} copy(%a)
  %init = (s32[], u8[1000,30]{1,0}, bf16[30,20]{1,0}, f32[5]{0}) tuple()
  ROOT %loop = (s32[], u8[1000,30]{1,0}, bf16[30,20]{1,0}, f32[5]{0}) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""  # noqa: E501


@pytest.fixture
def hlo(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import hlo

    return hlo


def test_bytes_of_kernels_in_and_out_of_a_loop(hlo):
    found = {kernel.name: kernel for kernel in hlo.kernels(PROGRAM)}
    assert {name: (k.opcode, k.bytes, k.times) for name, k in found.items()} == {
        "copy.1": ("copy", 2 * 64, 1),
        # 10 x 30 of the images, a byte each; their place; and what is written, 4 bytes each
        "x": ("fusion", 300 + 4 + 1200, 5),
        "y": ("custom-call", 1200 + 1200 + 400, 5),  # not the library's own 64
        "last": ("fusion", 4 + 4, 5),
        # an element is written in its place: read, and its place, and written
        "new": ("fusion", 0 + 4 + 4 + 4, 5),
        # the same within a sum: all of the array is read, but for the element, and a number written
        "sum": ("fusion", 20 + 4 + 4 + 4, 5),
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ENTRY ", "", "no ENTRY computation"),
        ('"known_trip_count":{"n":"5"}', "", "loop loop has no known number of rounds"),
    ],
)
def test_a_text_that_cannot_be_counted(hlo, old, new, message):
    with pytest.raises(ValueError, match=message):
        hlo.kernels(PROGRAM.replace(old, new))

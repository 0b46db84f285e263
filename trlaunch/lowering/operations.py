"""Operations of Triton's MLIR dialects, and the releases that know them.

Every name that the compiler's libraries hold was given to each release from 3.0 to 3.9 to parse, in MLIR's generic
form; each was found in an unbroken run of releases.
"""

from __future__ import annotations

__all__ = ["DIALECTS", "OPERATIONS"]

# Dialect: the first and the last minor release that has it.
DIALECTS = {
    "tt": ((3, 0), (3, 9)),
    "triton_gpu": ((3, 0), (3, 2)),
    "triton_nvidia_gpu": ((3, 0), (3, 2)),
    "ttg": ((3, 3), (3, 9)),
    "ttng": ((3, 3), (3, 9)),
    "nvws": ((3, 4), (3, 9)),
    "amdgpu": ((3, 0), (3, 5)),
    "amdg": ((3, 6), (3, 9)),
    "gluon": ((3, 5), (3, 9)),
    "tti": ((3, 5), (3, 9)),
}

# First and last minor release, dialect: operations. Those that came and go with their dialect are left out.
_TABLE = """
3.0 3.1 triton_nvidia_gpu: dot_async dot_wait
3.0 3.3 tt: experimental_descriptor_load experimental_descriptor_store
3.0 3.7 tt: advance make_tensor_ptr
3.2 3.2 triton_gpu: upcast_mxfp
3.2 3.2 triton_nvidia_gpu: bar_arrive bar_wait consumer_release consumer_wait create_token get_async_task_id
    get_canonical_warp_id mbarrier_arrive producer_acquire producer_commit reg_alloc reg_dealloc warp_group_dot
    warp_group_dot_wait
3.2 3.3 tt: experimental_tensormap_create experimental_tensormap_fenceproxy_acquire
3.2 3.5 amdgpu: buffer_load buffer_store instruction_sched_hint
3.2 3.9 tt: dot_scaled
3.3 3.3 tt: experimental_descriptor_gather experimental_descriptor_scatter reinterpret_tensor_descriptor
3.3 3.3 ttng: bar_arrive bar_wait consumer_release consumer_wait create_token get_async_task_id get_canonical_warp_id
    mbarrier_arrive producer_acquire producer_commit reg_alloc reg_dealloc tensor_desc_to_tma_ptr
3.3 3.4 ttg: memdesc_subview
3.3 3.5 amdgpu: buffer_atomic_rmw buffer_load_to_local cond_barrier extract_slice upcast_mxfp
3.3 3.8 ttng: cluster_arrive cluster_wait
3.3 3.9 tt: gather make_tensor_descriptor
3.4 3.5 amdgpu: concat in_thread_transpose
3.4 3.9 tt: descriptor_gather descriptor_load descriptor_reduce descriptor_scatter descriptor_store
3.4 3.9 ttg: mask mask.return memdesc_reinterpret memdesc_reshape predicate_stage
3.4 3.9 ttng: arrive_barrier async_tma_reduce reinterpret_tensor_descriptor tensormap_create
    tensormap_fenceproxy_acquire tmem_subslice
3.5 3.5 amdgpu: buffer_atomic_cas local_load_packed_tranposed masked_load masked_store
3.5 3.5 tti: experimental_check_barrier_writes_cleared experimental_check_outstanding_commits
    experimental_check_read_barriers experimental_check_write_state experimental_clear_outstanding_commits
    experimental_clear_read_barrier experimental_clear_write_barrier experimental_commit_accesses
    experimental_commit_write_with_barrier experimental_set_read_barrier experimental_set_write_state
    experimental_stage_access_for_commit
3.5 3.6 tti: experimental_buffer_pointers
3.5 3.7 tti: experimental_assert_in_thread
3.5 3.9 nvws: descriptor_gather descriptor_load warp_group.yield
3.5 3.9 tt: map_elementwise map_elementwise.return unsplat
3.5 3.9 ttg: memdesc_index memdesc_subslice
3.5 3.9 ttng: async_copy_mbarrier_arrive tc_gen5_commit
3.6 3.6 ttg: local_barrier
3.6 3.6 tti: experimental_memdesc_to_i64
3.6 3.7 amdg: instruction_sched_hint upcast_mxfp
3.6 3.8 amdg: local_load_packed_tranposed memory_counter_wait
3.6 3.9 nvws: aref.buffer
3.6 3.9 tti: experimental_lock_acquire experimental_lock_release
3.7 3.9 amdg: async_copy_local_to_global async_tdm_gather async_tdm_intrinsic_wait async_tdm_scatter
    cluster_barrier_arrive cluster_barrier_wait tdm_prefetch
3.7 3.9 ttg: barrier local_gather local_scatter warp_id
3.7 3.9 tti: experimental_buffer_descriptors experimental_memdesc_to_i32
3.7 3.9 ttng: fence_mbarrier_init_release_cluster
3.8 3.8 tti: experimental_gsan_atomic_tensor_access experimental_gsan_tensordesc_info
3.8 3.9 amdg: update_tensor_descriptor
3.8 3.9 ttg: local_atomic_scatter_rmw
3.8 3.9 tti: dot_i8 experimental_assert_uniform experimental_cluster_cta_id experimental_fpsan_embed
    experimental_fpsan_unembed experimental_gsan_atomic_cas experimental_gsan_atomic_rmw experimental_gsan_init
    experimental_gsan_tensor_access experimental_local_gather
3.8 3.9 ttng: async_shared_store clc_get_program_id clc_is_canceled clc_load_result clc_try_cancel cluster_barrier
    packed_arith
3.9 3.9 amdg: async_tdm_fused_copy_global_to_local local_load_packed_transposed scaled_downcast_fp4
    scaled_downcast_fp8
3.9 3.9 nvws: aref.phi clc_try_cancel
3.9 3.9 tt: approx_divf atomic_load atomic_poll atomic_store grid_dependency_launch_dependents grid_dependency_wait
3.9 3.9 ttg: inline_asm
3.9 3.9 tti: experimental_gsan_atomic_load experimental_gsan_atomic_poll experimental_gsan_atomic_store
    experimental_gsan_atomic_tensordesc_access experimental_gsan_cluster_barrier_init
    experimental_gsan_cluster_barrier_sync experimental_gsan_grid_dependency_wait
    experimental_gsan_indexed_tensordesc_access experimental_gsan_kernel_exit experimental_gsan_mbarrier_arrive
    experimental_gsan_mbarrier_init experimental_gsan_mbarrier_table_init experimental_gsan_mbarrier_wait
    experimental_gsan_tensordesc_access experimental_memory_offset_to_i32
3.9 3.9 ttng: clc_try_cancel_sync tmem_wait
"""


def _operations() -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
    found, dialect = {}, ""
    first = last = (3, 0)
    for line in _TABLE.strip().splitlines():
        head, colon, names = line.rpartition(":")
        if colon:
            oldest, newest, dialect = head.split()
            first, last = (3, int(oldest[2:])), (3, int(newest[2:]))
        for name in names.split():
            found[f"{dialect}.{name}"] = (first, last)
    return found


#: Operation by full name: the first and the last minor release that knows it.
OPERATIONS = _operations()

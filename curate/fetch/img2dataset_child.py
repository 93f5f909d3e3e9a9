"""The process that runs img2dataset against the gateway: python -m curate.fetch.img2dataset_child TABLE FOLDER."""

from __future__ import annotations

import sys

SAMPLES = 500
THREADS = 64
SECONDS = 24 * 3600
"""Disables img2dataset's own timeout: the gateway responds to every request within the policy's."""


def main(table: str, folder: str) -> None:
    """Download the URLs of a table into files, byte for byte: nothing is decoded, resized or re-encoded."""
    from img2dataset import download

    download(
        url_list=table, output_folder=folder, input_format="parquet", output_format="files", url_col="url",
        save_additional_columns=["number"], processes_count=1, thread_count=THREADS, number_sample_per_shard=SAMPLES,
        disable_all_reencoding=True, extract_exif=False, compute_hash=None, timeout=SECONDS, retries=0, max_shard_retry=0,
        disallowed_header_directives=[],
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])

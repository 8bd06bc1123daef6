"""The commands of ``python -m jaxsamplers``, one file each."""

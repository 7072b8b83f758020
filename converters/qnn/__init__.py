"""Qualcomm's NPU, Hexagon: compiled files for Snapdragons, and their arithmetic emulated on this machine."""

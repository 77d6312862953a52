"""Builds a conda channel of genuine packages from Debian's debs and PyPI's wheels.

archive   writes one package (.conda or .tar.bz2) and its repodata record
store     keeps downloads and finished packages between runs, keyed by what they were made from
debs      fetches debs through an apt root of its own;  python_deb, native  turn them into packages
wheels    turns wheels into packages
crafted   tiny packages, each with one thing a linker can get wrong
recipes   says which packages a channel holds
"""

"""What a run shows of itself, for its report: predictions image by image, errors site by site, pictures."""

from vitq.evidence.schema import EVIDENCE, Distribution, Evidence, Pairs, Picture, Prediction, SiteError

__all__ = ["EVIDENCE", "Distribution", "Evidence", "Pairs", "Picture", "Prediction", "SiteError"]

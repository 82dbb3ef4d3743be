"""A small VPP, trained from nothing on emoji that move over photographs."""

"""Where a layer's neurons lie: shapes, tables by parameter, and neighbourhoods."""

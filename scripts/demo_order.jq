# A document of Firebase to an order of the service: a row and child rows.
{
  number, status, created,
  customer: .customer.name, email: .customer.email,
  city: .customer.address.city, zip: .customer.address.zip,
  total, gift, note,
  lines: [.lines // [] | .[] | select(. != null)]  # of an array or object
}
| with_entries(select(.value != null))

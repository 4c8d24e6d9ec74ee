# A document of the Realtime Database to an order of the service: a row, and its lines as child rows.
{
  number, status, created,
  customer: .customer.name, email: .customer.email,
  city: .customer.address.city, zip: .customer.address.zip,
  total, gift, note,
  lines: [.lines // [] | .[] | select(. != null)]  # an array, or an object where some were taken away
}
| with_entries(select(.value != null))

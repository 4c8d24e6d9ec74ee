// Answers queries by Google's own engine, offline: reads {"data":…,"queries":[…]} from standard input and writes one line
// of keys, in order, for each query.
const firebase = require('firebase/app');
require('firebase/database');
const { data, queries } = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const database = firebase.initializeApp({ databaseURL: 'https://nobody.firebaseio.com' }).database();
database.goOffline();
database.ref('data').set(data);
for (const wanted of queries) {
  let query = database.ref('data');
  query = wanted.orderBy === '$key' ? query.orderByKey() : wanted.orderBy === '$value' ? query.orderByValue() : query.orderByChild(wanted.orderBy);
  for (const [name, value] of wanted.bounds) query = query[name](value);
  query.on('value', (snapshot) => {
    const keys = [];
    snapshot.forEach((child) => { keys.push(child.key); });
    console.log(JSON.stringify(keys));
  });
}
process.exit(0);

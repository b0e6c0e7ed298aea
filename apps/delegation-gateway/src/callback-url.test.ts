import { expect, it } from 'vitest';
import { checkCallbackUrl } from './callback-url.ts';

const strict = { allowHttp: false, allowedHosts: [] };

it.each([
  'https://example.com/hook',
  'https://example.com:8443/hook?task=1#x',
  'https://[2606:4700:4700::1111]/',
  'https://1.1.1.1/',
  'https://bücher.example/',
])('takes %s', (url) => expect(() => checkCallbackUrl(url, strict)).not.toThrow());

it.each([
  ['relative', '/hook'],
  ['no host', 'https:///hook'],
  ['one slash', 'https:/example.com'],
  ['no scheme', 'example.com/hook'],
  ['http', 'http://example.com/'],
  ['another scheme', 'ftp://example.com/'],
  ['a script', 'javascript:alert(1)'],
  ['a file', 'file:///etc/passwd'],
  ['a user', 'https://user@example.com/'],
  ['user and password', 'https://user:secret@example.com/'],
  ['a blank before', ' https://example.com/'],
  ['a line feed inside', 'https://exam\nple.com/'],
  ['a backslash', 'https:\\\\example.com\\'],
  ['loopback', 'https://127.0.0.1/'],
  ['loopback, short', 'https://127.1/'],
  ['loopback, decimal', 'https://2130706433/'],
  ['loopback, octal', 'https://0177.0.0.1/'],
  ['loopback, hex', 'https://0x7f.1/'],
  ['loopback, one hex number', 'https://0x7f000001/'],
  ['loopback by name', 'https://localhost/'],
  ['loopback by name with a dot', 'https://localhost./'],
  ['unspecified', 'https://0.0.0.0/'],
  ['private 10', 'https://10.1.2.3/'],
  ['private 172', 'https://172.31.255.255/'],
  ['private 192', 'https://192.168.0.1:9000/'],
  ['carrier grade', 'https://100.64.0.1/'],
  ['link-local', 'https://169.254.1.1/'],
  ['metadata', 'https://169.254.169.254/latest/meta-data/'],
  ['metadata, decimal', 'https://2852039166/'],
  ['metadata by name', 'https://metadata.google.internal/'],
  ['IPv6 loopback', 'https://[::1]/'],
  ['IPv6 unspecified', 'https://[::]/'],
  ['IPv6 mapped', 'https://[::ffff:127.0.0.1]/'],
  ['IPv6 mapped, hex', 'https://[::ffff:7f00:1]/'],
  ['IPv6 translated', 'https://[64:ff9b::a00:1]/'],
  ['IPv6 link-local', 'https://[fe80::1]/'],
  ['IPv6 unique local', 'https://[fd00:ec2::254]/'],
  ['full-width digits', 'https://１２７.０.０.１/'],
  ['a name of one label', 'https://redis/'],
])('refuses %s', (_, url) => {
  expect(() => checkCallbackUrl(url, strict)).toThrowError(
    expect.objectContaining({ code: 'VALIDATION_ERROR' }),
  );
});

it('takes http and named hosts where the settings let them', () => {
  const dev = { allowHttp: true, allowedHosts: ['127.0.0.1'] };
  expect(() => checkCallbackUrl('http://127.0.0.1:9000/', dev)).not.toThrow();
  expect(() => checkCallbackUrl('http://127.0.0.2:9000/', dev)).toThrowError();
  expect(() => checkCallbackUrl('http://user@127.0.0.1:9000/', dev)).toThrowError();
});

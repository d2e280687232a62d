# What Perl's TAP::Parser makes of a TAP stream on standard input: a line for each test point, then the totals.
use strict;
use warnings;
use open qw(:std :encoding(UTF-8));
use TAP::Parser;

my $tap = do { local $/; <STDIN> };
my $parser = TAP::Parser->new({ tap => $tap });
while (my $result = $parser->next) {
    if ($result->is_test) {
        printf "%d\t%s\t%s\t%s\n", $result->number, $result->is_actual_ok ? 'ok' : 'not ok', $result->directive, $result->description;
    }
    elsif ($result->is_yaml) {
        print "yaml\t", join(' / ', split(/\n/, $result->data->{details})), "\n";
    }
    elsif ($result->is_bailout) {
        print "bailout\n";
    }
}
printf "total\t%d\t%d\t%s\n", scalar $parser->tests_run, scalar $parser->failed, join('; ', $parser->parse_errors);

// SPDX-License-Identifier: MIT
// Virtual functions: several bases, virtual bases, thunks, covariant results, destructors, calls while constructing.
#include "torture.h"

struct Shape {
    Shape() { note("Shape"); }
    virtual ~Shape() { note("~Shape"); }
    virtual double area() const = 0;
    virtual const char *name() const { return "shape"; }
    virtual Shape *grown(int by) const = 0;
    void note(const char *what) const { printf("%s:%s ", what, name()); }
};
struct Named {
    virtual ~Named() { printf("~Named "); }
    virtual int length() const { return -1; }
    virtual void rename(const char *) = 0;
    int renamed = 0;
};
struct Box : Shape, Named {
    double w, h;
    const char *title = "box";
    Box(double a, double b) : w(a), h(b) { note("Box"); }
    ~Box() override { note("~Box"); }
    double area() const override { return w * h; }
    const char *name() const override { return title; }
    int length() const override { return (int)strlen(title); }
    void rename(const char *to) override { title = to, renamed++; }
    Box *grown(int by) const override { return new Box(w + by, h + by); }
};
struct Cube final : Box {
    double depth;
    explicit Cube(double side) : Box(side, side), depth(side) {}
    double area() const override { return 6 * Box::area(); }
    Cube *grown(int by) const override { return new Cube(depth + by); }
};

struct Root {
    int value = 1;
    virtual int get() const { return value; }
    virtual ~Root() = default;
};
struct Left : virtual Root {
    int left = 2;
    int get() const override { return value * 10 + left; }
};
struct Right : virtual Root {
    int right = 3;
    virtual int other() const { return right + value; }
};
struct Bottom : Left, Right {
    int bottom = 4;
    int other() const override { return Left::get() * 100 + bottom + right; }
};

static __attribute__((noinline)) double measure(const Shape &shape) { return shape.area(); }
static __attribute__((noinline)) int measure(const Named *named) { return named->length() + named->renamed; }

int main() {
    Shape *shapes[] = {new Box(2, 3), new Cube(2), new Box(1.5, 4)};
    puts("");
    for (Shape *&shape : shapes) {
        Shape *larger = shape->grown(1);
        printf("%g %g\n", measure(*shape), measure(*larger));
        delete shape;
        shape = larger;
        puts("");
    }
    Box *box = static_cast<Box *>(shapes[0]);
    Named *named = box;
    named->rename("crate");
    printf("%d %s %d\n", measure(named), shapes[0]->name(), (void *)named != (void *)box);
    delete named;
    delete shapes[1];
    delete static_cast<Box *>(shapes[2]);
    puts("");
    Bottom bottom;
    bottom.value = 7;
    Root &root = bottom;
    Left &left = bottom;
    Right &right = bottom;
    left.left = 5;
    printf("%d %d %d %d\n", root.get(), left.get(), right.get(), right.other());
    Root *fresh = new Bottom;
    printf("%d\n", fresh->get());
    delete fresh;
    return 0;
}
